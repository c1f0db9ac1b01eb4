import { Alias, Property, RetryPolicy, Role } from '@servicenow/sdk/core'
import config from '../../now.config.json'

// The scope is set in now.config.json and nowhere else.
const scope = config.scope

// A record with this is written by the first installation alone: an upgrade keeps the settings of the instance.
export const once = { installMethod: 'first install' } as const

export const operator = Role({
    name: `${scope}.operator`,
    description: 'May unassign one asset with the button, and start the flow action.',
})

export const admin = Role({
    name: `${scope}.admin`,
    description: 'Reads and writes the settings of Autopilot Unassign.',
    containsRoles: [operator],
})

// For REST steps of Integration Hub that use the alias. The scripts retry the same statuses by themselves.
const retry = RetryPolicy({
    $id: Now.ID['retry'],
    name: 'Autopilot Unassign',
    connectionType: 'http_retry_conditions',
    retryStrategy: 'retry_after',
    maxElapsedTime: 300,
    condition: 'status_codeIN408,429,500,502,503,504',
    restrictTo: ['status_code'],
})

export const alias = Alias({
    $id: Now.ID['alias'],
    name: 'Autopilot_Unassign',
    type: 'connection',
    connectionType: 'httpConnection',
    description: 'The address of the function, and the key that authenticates the instance.',
    retryPolicy: retry,
})

Property({
    $meta: once,
    $id: Now.ID['auth'],
    name: `${scope}.auth`,
    type: 'choicelist',
    choices: ['signature', 'api_key', 'function_key', 'oauth'],
    value: 'signature',
    description: 'How the instance authenticates: signature (the safest), api_key, function_key (Azure, with AUTH=platform) or oauth.',
    roles: { read: [admin], write: [admin] },
})

Property({
    $meta: once,
    $id: Now.ID['url'],
    name: `${scope}.url`,
    type: 'string',
    description: 'The https address of the function, with /api/unassign. A connection of the alias takes precedence.',
    roles: { read: [admin], write: [admin] },
})

Property({
    $meta: once,
    $id: Now.ID['secret'],
    name: `${scope}.secret`,
    type: 'password2',
    isPrivate: true,
    description: 'The signing key (whsec_...), API key or function key. A credential of the alias takes precedence.',
    roles: { read: [admin], write: [admin] },
})

// The sys_id of the alias, from the keys file. A test holds the two together.
Property({
    $meta: once,
    $id: Now.ID['alias_property'],
    name: `${scope}.alias`,
    type: 'string',
    value: 'ad29d8c9165d461891f9acbecf5a700e',
    description: 'The sys_id of the connection and credential alias. Empty: the properties url and secret alone count.',
    roles: { read: [admin], write: [admin] },
})

Property({
    $meta: once,
    $id: Now.ID['oauth_profile'],
    name: `${scope}.oauth_profile`,
    type: 'string',
    description: 'With auth=oauth: the sys_id of the OAuth entity profile.',
    roles: { read: [admin], write: [admin] },
})

Property({
    $meta: once,
    $id: Now.ID['dry_run'],
    name: `${scope}.dry_run`,
    type: 'boolean',
    value: true,
    description: 'Whether retirements and the button only report what would happen. Only the value false lets them act.',
    roles: { read: [admin], write: [admin] },
})

Property({
    $meta: once,
    $id: Now.ID['attempts'],
    name: `${scope}.attempts`,
    type: 'integer',
    value: 5,
    description: 'How many attempts to make when a retry may help: 1 to 10.',
    roles: { read: [admin], write: [admin] },
})

Property({
    $meta: once,
    $id: Now.ID['device_id_field'],
    name: `${scope}.device_id_field`,
    type: 'string',
    description: 'A field of the asset with the id of the Autopilot device identity. Where it is empty the serial number is sent.',
    roles: { read: [admin], write: [admin] },
})

Property({
    $meta: once,
    $id: Now.ID['expected_field'],
    name: `${scope}.expected_field`,
    type: 'string',
    description: 'A field of the asset with the account that is expected on the device. Assets on which it is empty are then left alone.',
    roles: { read: [admin], write: [admin] },
})

Property({
    $meta: once,
    $id: Now.ID['note_task_field'],
    name: `${scope}.note_task_field`,
    type: 'string',
    description: 'A reference field of the asset to the task that gets the work note. Where it is empty the asset gets it.',
    roles: { read: [admin], write: [admin] },
})

Property({
    $meta: once,
    $id: Now.ID['check_serial'],
    name: `${scope}.check_serial`,
    type: 'string',
    value: 'CHECK-CONNECTION',
    description: 'The serial number that the check sends. It need not exist.',
    roles: { read: [admin], write: [admin] },
})

Property({
    $meta: once,
    $id: Now.ID['allow_interactive'],
    name: `${scope}.allow_interactive`,
    type: 'boolean',
    value: false,
    description: 'Lets scripts call the function while a user waits. For trials only.',
    roles: { read: [admin], write: [admin] },
})
