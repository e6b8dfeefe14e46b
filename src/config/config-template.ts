/**
 * The files that a new node starts with: a walcade.conf that lists every parameter, generated
 * from the table, and a walcade_hba.conf that lets nobody in from other machines.
 */
import { assert } from '../base/assert.ts';
import { formatSetting } from './conf-file.ts';
import {
  PARAMETERS,
  PARAMETER_GROUPS,
  type Parameter,
  type ParameterKey,
  type ParameterName,
  parseParameter,
} from './parameters.ts';

const HEADER = `# The configuration of a walcade node, in the syntax of postgresql.conf:
#
#   name = value
#
# The "=" is optional. Comments begin with "#" anywhere on a line. Settings that are commented
# out show the default. The file is read at start and at a reload ("walcade reload" or SIGHUP);
# what is marked "(change requires restart)" has effect after a restart only.
#
# Memory units:  B  = bytes            Time units:  us  = microseconds
#                kB = kilobytes                     ms  = milliseconds
#                MB = megabytes                     s   = seconds
#                GB = gigabytes                     min = minutes
#                TB = terabytes                     h   = hours
#                                                   d   = days
`;

/** Where the remark begins if the setting is short enough; a multiple of 8. */
const REMARK_COLUMN = 40;

/**
 * The text of walcade.conf: `values`, by parameter name and as they would be written in the
 * file, are set; all other parameters are commented out at their default. Throws 22023 for a
 * value that could not be read again.
 */
export function configTemplate(
  values: Readonly<Partial<Record<ParameterName, string>>> = {},
): string {
  let text = HEADER;
  for (const group of PARAMETER_GROUPS) {
    text += `\n# ${group}\n\n`;
    for (const key of Object.keys(PARAMETERS) as ParameterKey[]) {
      const declaration = PARAMETERS[key];
      if (declaration.group !== group) continue;
      text += describeParameter(declaration, values[declaration.name]);
    }
  }
  return text;
}

function describeParameter(declaration: Parameter, value: string | undefined): string {
  if (value !== undefined) parseParameter(declaration, value);
  const setting = formatSetting(declaration, value ?? declaration.default);
  const shown = value === undefined ? `#${setting}` : setting;
  const remarks = [...declaration.description.split(/(?<=;) /), ...remarksOf(declaration)];
  const indent = ' '.repeat(REMARK_COLUMN);
  const isLong = shown.length >= REMARK_COLUMN;
  const first = isLong ? `${shown}\n${indent}` : shown.padEnd(REMARK_COLUMN);
  assert(!shown.includes('\n'), 'a setting is one line');
  return `${first}${remarks.map((remark) => `# ${remark}\n`).join(indent)}`;
}

function remarksOf(declaration: Parameter): string[] {
  const remarks: string[] = [];
  if (declaration.type === 'integer' && !declaration.octal) {
    const { min, max, unit } = declaration;
    const inUnit = unit === undefined ? '' : ` in ${unit}`;
    remarks.push(`range ${min}-${max}${inUnit}`);
  }
  if (declaration.type === 'enum') remarks.push(`values: ${declaration.values.join(', ')}`);
  if (declaration.context === 'restart') remarks.push('(change requires restart)');
  return remarks;
}

/**
 * The text of walcade_hba.conf: trust for this machine, for replication and the console, and
 * nothing for others, since there is no authentication to ask them for yet.
 */
export function hbaTemplate(): string {
  return `# Who may connect, in the syntax of pg_hba.conf: the first line that matches decides, and
# without a match the connection is refused. The file is read at start and at a reload.
#
#   local                     DATABASE  USER           METHOD
#   host|hostssl|hostnossl    DATABASE  USER  ADDRESS  METHOD
#
# DATABASE  "all", "replication", "sameuser", names; comma-separated. "all" does not match
#           replication: standbys, pg_receivewal and other nodes need a line that says so.
# USER      "all", names; comma-separated.
# ADDRESS   "all", "samehost", "samenet", an IP address with a CIDR mask or with a mask beside it.
# METHOD    "trust" or "reject".
#
# "trust" lets anyone in who can reach the socket or address. As long as there is no other
# method, give it to no address that others can use.

# TYPE  DATABASE        USER            ADDRESS                 METHOD

local   all             all                                     trust
host    all             all             127.0.0.1/32            trust
host    all             all             ::1/128                 trust
local   replication     all                                     trust
host    replication     all             127.0.0.1/32            trust
host    replication     all             ::1/128                 trust
`;
}
