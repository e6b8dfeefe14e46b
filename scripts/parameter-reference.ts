/**
 * docs/parameters.md, made from the table of parameters: run as a program it writes the file.
 */
import { writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { PARAMETERS, PARAMETER_GROUPS, type Parameter } from '../src/config/parameters.ts';

export const REFERENCE_FILE = fileURLToPath(new URL('../docs/parameters.md', import.meta.url));

const HEADER = `# Parameters of walcade.conf

Made by \`npm run docs\` from \`src/config/parameter-table.ts\`; do not edit.

A parameter has PostgreSQL's name where it has PostgreSQL's meaning. The syntax is that of
postgresql.conf, \`include\` and \`include_if_exists\` too; the last setting of a parameter wins. The
file is read at start and by \`walcade reload\`. A reload applies all of the file or, if anything in
it is wrong, nothing. \`SHOW name\` on a replication connection answers what a node goes by.
`;

/** The text of docs/parameters.md. */
export function parameterReference(): string {
  const parameters: readonly Parameter[] = Object.values(PARAMETERS);
  const sections = PARAMETER_GROUPS.map((group) => {
    const described = parameters.filter((each) => each.group === group).map(describe);
    return `\n## ${group}\n\n${described.join('\n')}`;
  });
  return HEADER + sections.join('');
}

function describe(parameter: Parameter): string {
  const { name, description, context } = parameter;
  const effect = context === 'restart' ? 'restart' : 'reload';
  const value = parameter.default === '' ? 'empty' : `\`${parameter.default}\``;
  const sentence = `${description[0]?.toUpperCase() ?? ''}${description.slice(1)}.`;
  return (
    `### ${name}\n\n${sentence}\n\n` +
    `Type: ${typeOf(parameter)}. Default: ${value}. Changed by: ${effect}.\n`
  );
}

function typeOf(parameter: Parameter): string {
  if (parameter.type === 'bool') return 'on or off';
  if (parameter.type === 'list') return 'comma-separated list';
  if (parameter.type === 'string') return 'text';
  if (parameter.type === 'enum') {
    return `one of ${parameter.values.map((value) => `\`${value}\``).join(', ')}`;
  }
  const { min, max, unit, octal } = parameter;
  if (octal) return 'permissions, in octal with a leading 0';
  if (unit === undefined) return `${min} to ${max}`;
  return `${min} to ${max} ${unit}; a number without a unit is in ${unit}`;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  writeFileSync(REFERENCE_FILE, parameterReference());
}
