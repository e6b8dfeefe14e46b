/**
 * What can be done with a parameter: find it by name, read its text, show its value.
 *
 * A NodeConfig is immutable; a reload makes a new one. Its times are milliseconds and its sizes
 * bytes, whatever the base unit that PostgreSQL gives the parameter.
 */
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import {
  type NodeConfig,
  PARAMETERS,
  type Parameter,
  type ParameterKey,
  type ParameterValue,
} from './parameter-table.ts';
import {
  type BaseUnit,
  formatInteger,
  formatList,
  isTime,
  parseBool,
  parseInteger,
  parseList,
  unitSize,
} from './parameter-values.ts';

export {
  type NodeConfig,
  PARAMETERS,
  PARAMETER_GROUPS,
  type Parameter,
  type ParameterKey,
  type ParameterName,
  type ParameterValue,
} from './parameter-table.ts';

const BY_NAME = new Map<string, ParameterKey>();
for (const key of Object.keys(PARAMETERS) as ParameterKey[]) BY_NAME.set(PARAMETERS[key].name, key);

/** The key of the parameter called `name`, in any case, or undefined. */
export function findParameter(name: string): ParameterKey | undefined {
  return BY_NAME.get(name.toLowerCase());
}

/** The declaration behind a key. */
export function parameter(key: ParameterKey): Parameter {
  return PARAMETERS[key];
}

/** The key of the parameter called `name`; throws 42704 if there is none. */
export function requireParameter(name: string): ParameterKey {
  const key = findParameter(name);
  if (key !== undefined) return key;
  throw new WalcadeError(
    SQLSTATE.UNDEFINED_OBJECT,
    `unrecognized configuration parameter "${name}"`,
  );
}

/** The defaults with `texts` over them, by key. Throws 22023 with PostgreSQL's words. */
export function nodeConfig(texts: ReadonlyMap<ParameterKey, string> = new Map()): NodeConfig {
  const entries = (Object.keys(PARAMETERS) as ParameterKey[]).map((key) => [
    key,
    parseParameter(PARAMETERS[key], texts.get(key) ?? PARAMETERS[key].default),
  ]);
  return Object.freeze(Object.fromEntries(entries) as NodeConfig);
}

/** `text` as the value of a parameter (guc.c, parse_and_validate_value()); throws 22023. */
export function parseParameter(declaration: Parameter, text: string): ParameterValue {
  const { name } = declaration;
  const refuse = (hint?: string): WalcadeError =>
    invalid(`invalid value for parameter "${name}": "${text}"`, hint);
  switch (declaration.type) {
    case 'bool': {
      const value = parseBool(text);
      if (value === undefined) throw invalid(`parameter "${name}" requires a Boolean value`);
      return value;
    }
    case 'integer': {
      const { min, max, unit } = declaration;
      const result = parseInteger(text, unit);
      if (result.kind === 'invalid') throw refuse(result.hint);
      const suffix = unit === undefined ? '' : ` ${unit}`;
      if (result.value < min || result.value > max) {
        throw invalid(
          `${result.value}${suffix} is outside the valid range for parameter "${name}" ` +
            `(${min}${suffix} .. ${max}${suffix})`,
        );
      }
      return result.value * scale(unit);
    }
    case 'enum': {
      const value = declaration.values.find((each) => each === text.toLowerCase());
      if (value === undefined) throw refuse(`Available values: ${declaration.values.join(', ')}.`);
      return value;
    }
    case 'list': {
      const value = parseList(text, declaration);
      if (value === undefined) throw invalid(`invalid list syntax in parameter "${name}"`);
      return value;
    }
    case 'string':
      // It would end the value early in a startup packet.
      if (text.includes('\0')) throw invalid(`null character in parameter "${name}"`);
      declaration.check?.(text);
  }
  return text;
}

/**
 * A NodeConfig's value as SHOW prints it (guc.c, ShowGUCOption()): `1min`, `1GB`, `on`, `0777`.
 * Throws 42704 if there is no parameter called `name`.
 */
export function showParameter(name: string, value: ParameterValue): string {
  const declaration: Parameter = PARAMETERS[requireParameter(name)];
  if (typeof value === 'boolean') return value ? 'on' : 'off';
  if (typeof value === 'string') return value;
  if (typeof value !== 'number') return formatList(value);
  if (declaration.type !== 'integer') return String(value);
  if (declaration.octal) return value.toString(8).padStart(4, '0');
  return formatInteger(value / scale(declaration.unit), declaration.unit);
}

/** What SHOW answers for `name`; throws 42704 if there is no such parameter. */
export function showConfig(config: NodeConfig, name: string): string {
  return showParameter(name, config[requireParameter(name)]);
}

/** How many milliseconds or bytes one of `unit` is. */
function scale(unit: BaseUnit | undefined): number {
  if (unit === undefined) return 1;
  return isTime(unit) ? unitSize(unit) / unitSize('ms') : unitSize(unit);
}

function invalid(message: string, hint?: string): WalcadeError {
  return new WalcadeError(
    SQLSTATE.INVALID_PARAMETER_VALUE,
    message,
    hint === undefined ? {} : { hint },
  );
}
