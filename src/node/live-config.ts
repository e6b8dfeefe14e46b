/**
 * The configuration of a running node: walcade.conf and walcade_hba.conf as they were last read
 * without an error, but for the parameters that need a restart, which stay as they were at start.
 */
import { loadConfig } from '../config/conf-file.ts';
import { type HbaRule, loadHba } from '../config/hba.ts';
import {
  type NodeConfig,
  PARAMETERS,
  type ParameterKey,
  showConfig,
} from '../config/parameters.ts';

export interface ConfigChange {
  /** What has another value now. */
  changed: ParameterKey[];
  /** Names of what has another value in the file, and none here before a restart. */
  needRestart: string[];
}

export class LiveConfig {
  readonly #directory: string;
  #config: NodeConfig;
  #hbaRules: readonly HbaRule[];

  private constructor(directory: string, config: NodeConfig, hbaRules: readonly HbaRule[]) {
    this.#directory = directory;
    this.#config = config;
    this.#hbaRules = hbaRules;
  }

  /** Throws F0000 with every error of the files. */
  static async load(directory: string): Promise<LiveConfig> {
    return new LiveConfig(directory, await loadConfig(directory), await loadHba(directory));
  }

  get config(): NodeConfig {
    return this.#config;
  }

  get hbaRules(): readonly HbaRule[] {
    return this.#hbaRules;
  }

  /** Reads the files anew. Throws F0000 with every error of them; all is as it was then. */
  async reload(): Promise<ConfigChange> {
    const config = await loadConfig(this.#directory);
    const hbaRules = await loadHba(this.#directory);
    const isOther = (key: ParameterKey): boolean => {
      const { name } = PARAMETERS[key];
      return showConfig(config, name) !== showConfig(this.#config, name);
    };
    const others = (Object.keys(PARAMETERS) as ParameterKey[]).filter(isOther);
    const changed = others.filter((key) => !needsRestart(key));
    const needRestart = others.filter(needsRestart).map((key) => PARAMETERS[key].name);
    const kept = Object.entries(this.#config).filter(([key]) => needsRestart(key as ParameterKey));
    this.#config = { ...config, ...(Object.fromEntries(kept) as Partial<NodeConfig>) };
    this.#hbaRules = hbaRules;
    return { changed, needRestart };
  }
}

function needsRestart(key: ParameterKey): boolean {
  return PARAMETERS[key].context === 'restart';
}
