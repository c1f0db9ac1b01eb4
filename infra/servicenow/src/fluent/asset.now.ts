import { BusinessRule, CrossScopePrivilege, Record, ScheduledScript, ScriptAction, ScriptInclude, UiAction } from '@servicenow/sdk/core'
import config from '../../now.config.json'
import { once, operator } from './settings.now'

const scope = config.scope

// Private to the application: a caller of these scripts has the use of the key.
ScriptInclude({
    $id: Now.ID['client'],
    name: 'AutopilotUnassign',
    description: 'Calls the function for one device.',
    accessibleFrom: 'package_private',
    script: Now.include('../scripts/AutopilotUnassign.js'),
})

ScriptInclude({
    $id: Now.ID['asset'],
    name: 'AutopilotUnassignAsset',
    description: 'Calls the function for the device of an asset, retries, and writes the work note.',
    accessibleFrom: 'package_private',
    script: Now.include('../scripts/AutopilotUnassignAsset.js'),
})

// Inactive: an administrator activates it. Inserts count too: an import may bring assets that are already retired.
BusinessRule({
    $meta: once,
    $id: Now.ID['retirement'],
    name: 'Autopilot Unassign on retirement',
    description: 'Removes the resource account when a hardware asset becomes retired.',
    table: 'alm_hardware',
    when: 'async',
    action: ['insert', 'update'],
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
        description: 'Call the function for the device of this asset: the first time (the button) or a retry.',
        fired_by: 'The script include AutopilotUnassignAsset',
        caller_access: '2', // Caller Restriction: no other application may queue it
    },
})

ScriptAction({
    $id: Now.ID['again'],
    name: 'Autopilot Unassign',
    description: 'Calls the function for the device of an asset.',
    active: true,
    eventName: `${scope}.unassign`,
    order: 100,
    script: Now.include('../scripts/again.js'),
})

UiAction({
    $meta: once,
    $id: Now.ID['button'],
    name: 'Unassign resource account',
    actionName: 'autopilot_unassign',
    table: 'alm_hardware',
    active: false,
    roles: [operator],
    form: { showButton: true },
    condition: "current.serial_number != ''",
    workspace: { isConfigurableWorkspace: true, showFormButtonV2: true },
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
