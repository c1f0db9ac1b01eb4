import { BusinessRule, CrossScopePrivilege, Record, ScheduledScript, ScriptAction, ScriptInclude, UiAction } from '@servicenow/sdk/core'
import config from '../../now.config.json'
import { operator } from './settings.now'

const scope = config.scope

// Neither may be called from another application: whoever can make it sign has the key.
ScriptInclude({
    $id: Now.ID['client'],
    name: 'AutopilotUnassign',
    description: 'Asks the function about one device.',
    accessibleFrom: 'package_private',
    script: Now.include('../scripts/AutopilotUnassign.js'),
})

ScriptInclude({
    $id: Now.ID['asset'],
    name: 'AutopilotUnassignAsset',
    description: 'Asks for the device of an asset, repeats that where it may help, and writes the work note.',
    accessibleFrom: 'package_private',
    script: Now.include('../scripts/AutopilotUnassignAsset.js'),
})

// New rules run during upgrades: this one is for an administrator to activate.
BusinessRule({
    $id: Now.ID['retirement'],
    name: 'Autopilot Unassign on retirement',
    description: 'Asks for the resource account to be taken off when a hardware asset becomes retired.',
    table: 'alm_hardware',
    when: 'async',
    action: ['update'],
    order: 1000,
    active: false,
    filterCondition: 'install_status=7^install_statusVALCHANGES^EQ',
    script: Now.include('../scripts/retirement.js'),
})

Record({
    $id: Now.ID['event'],
    table: 'sysevent_register',
    data: {
        suffix: 'unassign',
        event_name: `${scope}.unassign`,
        table: 'alm_hardware',
        description: 'Ask for the device of this asset, for the first time (the button) or again.',
        fired_by: 'The script include AutopilotUnassignAsset',
    },
})

ScriptAction({
    $id: Now.ID['again'],
    name: 'Autopilot Unassign',
    description: 'Asks for the device of an asset when its time has come.',
    active: true,
    eventName: `${scope}.unassign`,
    order: 100,
    script: Now.include('../scripts/again.js'),
})

UiAction({
    $id: Now.ID['button'],
    name: 'Unassign resource account',
    actionName: 'autopilot_unassign',
    table: 'alm_hardware',
    active: false,
    roles: [operator],
    form: { showButton: true },
    showInsert: false,
    showUpdate: true,
    script: Now.include('../scripts/button.js'),
})

ScheduledScript({
    $id: Now.ID['check'],
    name: 'Autopilot Unassign: check the connection',
    frequency: 'on_demand',
    active: true,
    executionStart: '2026-01-01 00:00:00',
    script: Now.include('../scripts/check.js'),
})

CrossScopePrivilege({
    $id: Now.ID['asset_read'],
    operation: 'read',
    status: 'allowed',
    targetName: 'alm_hardware',
    targetScope: 'global',
    targetType: 'sys_db_object',
})

CrossScopePrivilege({
    $id: Now.ID['asset_write'],
    operation: 'write',
    status: 'allowed',
    targetName: 'alm_hardware',
    targetScope: 'global',
    targetType: 'sys_db_object',
})
