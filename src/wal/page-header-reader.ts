/**
 * Reads page headers that come in pieces, each checked against the ones before it.
 *
 * Version, cluster and timeline are pinned by the first header that has them, if the caller did
 * not know them; from then on only the timeline may change, and only grow.
 */
import type { WalFormat } from './formats.ts';
import { gather } from './gather.ts';
import { timelineId, type Lsn, type TimelineId } from './lsn.ts';
import {
  LONG_PAGE_HEADER_BYTES,
  PAGE_HEADER_BYTES,
  checkPageHeader,
  decodePageHeader,
  pageHeaderBytes,
  type PageHeader,
} from './page.ts';

export class PageHeaderReader {
  readonly #segmentBytes: number;
  readonly #bytes = new DataView(new ArrayBuffer(LONG_PAGE_HEADER_BYTES));
  #gathered = 0;
  #format: WalFormat | undefined;
  #systemIdentifier: bigint | undefined;
  #timeline: TimelineId | undefined;

  constructor(
    segmentBytes: number,
    known: { format: WalFormat | undefined; systemIdentifier: bigint | undefined },
  ) {
    this.#segmentBytes = segmentBytes;
    this.#format = known.format;
    this.#systemIdentifier = known.systemIdentifier;
  }

  get format(): WalFormat | undefined {
    return this.#format;
  }

  get systemIdentifier(): bigint | undefined {
    return this.#systemIdentifier;
  }

  get timeline(): TimelineId | undefined {
    return this.#timeline;
  }

  /** Takes what `view` has, from `from` on, of the current header; returns how many bytes. */
  take(view: DataView, from: number): number {
    const isShort = this.#gathered < PAGE_HEADER_BYTES;
    const wanted = isShort ? PAGE_HEADER_BYTES : LONG_PAGE_HEADER_BYTES;
    const to = Math.min(view.byteLength, from + wanted - this.#gathered);
    const bytes = gather(this.#bytes, this.#gathered, view, from, to);
    this.#gathered += bytes;
    return bytes;
  }

  /** How long the current header is, once all of it was taken. */
  get completeBytes(): number | undefined {
    if (this.#gathered < PAGE_HEADER_BYTES) return undefined;
    const headerBytes = pageHeaderBytes(this.#bytes);
    return this.#gathered < headerBytes ? undefined : headerBytes;
  }

  /** Ends the complete header of the page at `address`; throws WalCorruption if it is wrong. */
  end(address: Lsn): { header: PageHeader; format: WalFormat } {
    const header = decodePageHeader(this.#bytes);
    this.#gathered = 0;
    const format = checkPageHeader(header, {
      address,
      segmentBytes: this.#segmentBytes,
      format: this.#format,
      systemIdentifier: this.#systemIdentifier,
      timeline: this.#timeline,
    });
    this.#format = format;
    this.#systemIdentifier = header.segment?.systemIdentifier ?? this.#systemIdentifier;
    if (header.timeline !== this.#timeline) this.#timeline = timelineId(header.timeline);
    return { header, format };
  }
}
