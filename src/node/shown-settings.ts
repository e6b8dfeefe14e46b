/** What SHOW answers on a replication connection: settings of this node and of its upstream. */
import { describeConninfo } from '../config/conninfo.ts';
import { type NodeConfig, PARAMETERS, showConfig } from '../config/parameters.ts';
import { NODE_ID, UPSTREAM_PATH, formatUpstreamPath } from '../protocol/node-parameters.ts';
import type { ShownSetting } from '../sender/sender-context.ts';
import type { ControlData } from '../store/control-file.ts';

/** As whoever may connect is told them: without the secrets of primary_conninfo. */
export function shownSettings(
  config: NodeConfig,
  { nodeId, upstreamSettings }: Readonly<ControlData>,
  { upstreamPath, isInRecovery }: { upstreamPath: readonly string[]; isInRecovery: boolean },
): ShownSetting[] {
  const primaryConninfo = describeConninfo(config.primaryConninfo);
  const shown = { ...config, primaryConninfo };
  const own = Object.values(PARAMETERS).map(({ name, description }) => ({
    name,
    value: showConfig(shown, name),
    description,
  }));
  const names = new Set<string>(own.map(({ name }) => name));
  const mirrored = Object.entries(upstreamSettings)
    .filter(([name]) => !names.has(name))
    .map(([name, value]) => ({ name, value, description: 'As the upstream has it.' }));
  const path = formatUpstreamPath(upstreamPath);
  return [
    ...own,
    ...mirrored,
    ...sessionSettings(isInRecovery),
    { name: NODE_ID, value: nodeId, description: 'Identity of this node.' },
    { name: UPSTREAM_PATH, value: path, description: 'The nodes above this one.' },
  ];
}

/** What clients look at for target_session_attrs; before PostgreSQL 14 they have to ask for it. */
function sessionSettings(isInRecovery: boolean): ShownSetting[] {
  const state = isInRecovery ? 'on' : 'off';
  return [
    { name: 'in_hot_standby', value: state, description: 'Whether it is a standby.' },
    { name: 'transaction_read_only', value: state, description: 'As it would be for SQL.' },
    { name: 'default_transaction_read_only', value: 'off', description: 'As for SQL.' },
  ];
}
