/** What a node answers that was asked to follow another upstream. */

/** An error or a notice, as it goes over the control socket. */
export interface Report {
  message: string;
  detail: string | undefined;
  hint: string | undefined;
}

/** With an error nothing has changed, unless the error says so. */
export interface FollowOutcome {
  error: Report | null;
  /** What comes of following it that somebody should know. */
  notices: Report[];
}
