/**
 * IP addresses and the ranges of pg_hba.conf as bytes, so that a match is a comparison under a
 * mask (ip.c, pg_range_sockaddr()). An IPv4-mapped IPv6 address is the IPv4 address it holds:
 * that is how a socket that listens on both shows IPv4 clients.
 */
import { isIPv4, isIPv6 } from 'node:net';
import { networkInterfaces } from 'node:os';

/** 4 or 16 bytes. */
export type IpAddress = Uint8Array;

export interface IpRange {
  readonly address: IpAddress;
  readonly mask: IpAddress;
}

/** `text` as bytes, without its zone (`%eth0`); undefined if it is no IP address. */
export function parseIpAddress(text: string): IpAddress | undefined {
  if (isIPv4(text)) return Uint8Array.from(text.split('.'), Number);
  if (!isIPv6(text)) return undefined;
  const bytes = parseIpv6(text.replace(/%.*$/, ''));
  const isMapped = bytes.subarray(0, 10).every((byte) => byte === 0) && bytes[10] === 255;
  return isMapped && bytes[11] === 255 ? bytes.slice(12) : bytes;
}

/** `text` has been checked to be an IPv6 address. */
function parseIpv6(text: string): Uint8Array {
  const dotted = /[^:]*\.[^:]*$/.exec(text)?.[0];
  const tail = dotted === undefined ? [] : dotted.split('.').map(Number);
  const [head = '', rest] = text.slice(0, text.length - (dotted?.length ?? 0)).split('::');
  const groups = (part: string): number[] =>
    part
      .split(':')
      .filter((group) => group !== '')
      .flatMap((group) => {
        const value = Number.parseInt(group, 16);
        return [value >> 8, value & 0xff];
      });
  const bytes = new Uint8Array(16);
  const first = groups(head);
  const last = [...groups(rest ?? ''), ...tail];
  bytes.set(first, 0);
  bytes.set(last, 16 - last.length);
  return bytes;
}

/** The mask of `bits` ones for an address of `length` bytes. */
export function cidrMask(bits: number, length: number): IpAddress {
  return Uint8Array.from({ length }, (_, index) => {
    const ones = Math.min(Math.max(bits - index * 8, 0), 8);
    return (0xff00 >> ones) & 0xff;
  });
}

/** Whether `address` is in `range`; never if they are of different families. */
export function isInRange(address: IpAddress, range: IpRange): boolean {
  if (address.length !== range.address.length) return false;
  return address.every(
    (byte, index) => ((byte ^ (range.address[index] ?? 0)) & (range.mask[index] ?? 0xff)) === 0,
  );
}

/** The addresses of this machine's interfaces with their netmasks (ip.c, pg_foreach_ifaddr()). */
export function localRanges(): IpRange[] {
  const ranges: IpRange[] = [];
  for (const entry of Object.values(networkInterfaces()).flat()) {
    const address = parseIpAddress(entry?.address ?? '');
    const mask = parseIpAddress(entry?.netmask ?? '');
    if (address && mask && address.length === mask.length) ranges.push({ address, mask });
  }
  return ranges;
}
