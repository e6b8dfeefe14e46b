/**
 * walcade.conf, in the syntax of postgresql.conf (guc-file.l): settings, comments, includes.
 *
 * Reading collects all errors of the file and of what it includes into one WalcadeError, so that
 * an operator sees them at once. The last setting of a parameter wins and only that one is
 * checked, as in PostgreSQL. Editing keeps every comment.
 */
import { readFile } from 'node:fs/promises';
import { dirname, relative, resolve } from 'node:path';
import {
  SQLSTATE,
  WalcadeError,
  asWalcadeError,
  describeSystemError,
  systemErrorCode,
} from '../base/errors.ts';
import { type Setting, type SettingError, scanSettings } from './conf-syntax.ts';
import {
  type NodeConfig,
  type Parameter,
  type ParameterKey,
  findParameter,
  nodeConfig,
  parameter,
  parseParameter,
  requireParameter,
} from './parameters.ts';

export const CONF_FILE_NAME = 'walcade.conf';

const INCLUDE_DEPTH_MAX = 10;

/** Reads a file as text; rejects with a system error. */
export type ReadText = (path: string) => Promise<string>;

const readUtf8: ReadText = (path) => readFile(path, 'utf8');

interface LocatedSetting extends Setting {
  readonly file: string;
}

/**
 * The configuration of the node in `directory`: defaults, with `walcade.conf` over them.
 * Throws F0000 with every error in the detail; nothing is applied then.
 */
export async function loadConfig(
  directory: string,
  { readText = readUtf8 }: { readText?: ReadText } = {},
): Promise<NodeConfig> {
  const root = resolve(directory);
  const reader = new ConfReader(root, readText);
  await reader.read(resolve(root, CONF_FILE_NAME), 0);
  const texts = checkSettings(reader.settings, reader.errors);
  if (reader.errors.length === 0) return nodeConfig(texts);
  throw new WalcadeError(
    SQLSTATE.CONFIG_FILE_ERROR,
    `configuration file "${CONF_FILE_NAME}" contains errors`,
    { detail: reader.errors.join('\n') },
  );
}

class ConfReader {
  readonly settings: LocatedSetting[] = [];
  readonly errors: string[] = [];
  readonly #root: string;
  readonly #readText: ReadText;

  constructor(root: string, readText: ReadText) {
    this.#root = root;
    this.#readText = readText;
  }

  /** Collects the settings of the file at `path` and of what it includes, in their order. */
  async read(path: string, depth: number, { optional = false } = {}): Promise<void> {
    const file = this.#displayName(path);
    if (depth > INCLUDE_DEPTH_MAX) {
      this.errors.push(
        `could not open configuration file "${file}": maximum nesting depth exceeded`,
      );
      return;
    }
    let text: string;
    try {
      text = await this.#readText(path);
    } catch (error) {
      if (optional && systemErrorCode(error) === 'ENOENT') return;
      this.errors.push(
        `could not open configuration file "${file}": ${describeSystemError(error)}`,
      );
      return;
    }
    const { settings, errors } = scanSettings(text);
    this.errors.push(...errors.map((error) => describeSyntaxError(error, file)));
    for (const setting of settings) {
      const directive = setting.name.toLowerCase();
      if (directive !== 'include' && directive !== 'include_if_exists') {
        this.settings.push({ ...setting, file });
      } else if (setting.value.trim() === '') {
        this.errors.push(`empty configuration file name in file "${file}" line ${setting.line}`);
      } else {
        const included = resolve(dirname(path), setting.value);
        await this.read(included, depth + 1, { optional: directive === 'include_if_exists' });
      }
    }
  }

  /** Paths inside the node's directory are shown relative to it: a node can be moved. */
  #displayName(path: string): string {
    const inside = relative(this.#root, path);
    return inside.startsWith('..') ? path : inside;
  }
}

/** The texts to apply; what is not recognised or out of range goes to `errors`. */
function checkSettings(
  settings: readonly LocatedSetting[],
  errors: string[],
): Map<ParameterKey, string> {
  const texts = new Map<ParameterKey, string>();
  const last = new Map(settings.map((setting) => [setting.name.toLowerCase(), setting]));
  for (const setting of settings) {
    if (last.get(setting.name.toLowerCase()) !== setting) continue;
    const place = `in file "${setting.file}" line ${setting.line}`;
    const key = findParameter(setting.name);
    if (key === undefined) {
      errors.push(`unrecognized configuration parameter "${setting.name}" ${place}`);
      continue;
    }
    try {
      parseParameter(parameter(key), setting.value);
      texts.set(key, setting.value);
    } catch (error) {
      const { message, detail, hint } = asWalcadeError(error);
      const more = [detail, hint].filter((text) => text !== undefined).join(' ');
      errors.push(`${message} ${place}${more === '' ? '' : `: ${more}`}`);
    }
  }
  return texts;
}

function describeSyntaxError(error: SettingError, file: string): string {
  const place = error.token === undefined ? 'near end of line' : `near token "${error.token}"`;
  return `syntax error in file "${file}" line ${error.line}, ${place}`;
}

/**
 * `text` of a conf file with parameter `name` set to `value`: its last setting is replaced in
 * place; else the first one that is commented out is put to use; else a line is added at the
 * end. Throws 42704 or 22023 rather than write what could not be read again. (A file that is
 * included further down may still win.)
 */
export function setParameter(text: string, name: string, value: string): string {
  const declaration = parameter(requireParameter(name));
  parseParameter(declaration, value);
  const setting = formatSetting(declaration, value);
  const isWanted = (each: Setting): boolean => each.name.toLowerCase() === declaration.name;
  const active = scanSettings(text).settings.findLast(isWanted);
  if (active) return text.slice(0, active.start) + setting + text.slice(active.end);
  for (const match of text.matchAll(/^#[ \t]?(?=[A-Za-z_]+[ \t]*=)/gm)) {
    const line = /[^\n]*/.exec(text.slice(match.index + match[0].length))?.[0] ?? '';
    const commented = scanSettings(line).settings.find(isWanted);
    if (!commented) continue;
    const after = match.index + match[0].length + commented.end;
    return text.slice(0, match.index) + setting + text.slice(after);
  }
  const separator = text === '' || text.endsWith('\n') ? '' : '\n';
  return `${text}${separator}${setting}\n`;
}

/** `name = value` as a conf file has it; quoted if it is a string or not one plain token. */
export function formatSetting({ name, type }: Parameter, value: string): string {
  const isText = type === 'string' || type === 'list';
  if (!isText && /^[A-Za-z_]\w*$|^-?\d+[A-Za-z]*$/.test(value)) return `${name} = ${value}`;
  const escaped = value
    .replaceAll('\\', '\\\\')
    .replaceAll("'", "''")
    .replaceAll('\n', '\\n')
    .replaceAll('\r', '\\r');
  return `${name} = '${escaped}'`;
}
