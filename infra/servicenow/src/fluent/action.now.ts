import { Acl, BooleanColumn, IntegerColumn, StringColumn } from '@servicenow/sdk/core'
import { Action, actionStep, wfa } from '@servicenow/sdk/automation'
import config from '../../now.config.json'
import { operator } from './settings.now'

// A script step, which needs no subscription of Integration Hub. There is no flow: now-sdk install activates each flow of a package,
// and nothing may act before an administrator says so.
export const unassign = Action(
    {
        $id: Now.ID['action'],
        name: 'Unassign resource account',
        internalName: 'unassign_resource_account',
        description: 'Calls Autopilot Unassign once for one device, by its serial number or its Autopilot id. It does not fail: the outputs report the outcome.',
        category: 'autopilot_unassign',
        access: 'package_private',
        inputs: {
            serial_number: StringColumn({ label: 'Serial number', hint: 'The whole serial number. Give this or the device id.' }),
            device_id: StringColumn({ label: 'Device id', hint: 'The id of the Autopilot device identity.' }),
            expected_account: StringColumn({ label: 'Expected account', hint: 'Refuse if the device carries another account by now.' }),
            dry_run: BooleanColumn({ label: 'Dry run', default: true, hint: 'Report what would happen. Nothing is changed.' }),
            reference: StringColumn({ label: 'Reference', maxLength: 128, hint: 'Your ticket, for the audit record.' }),
        },
        outputs: {
            code: StringColumn({ label: 'Code' }),
            status: IntegerColumn({ label: 'Status' }),
            message: StringColumn({ label: 'Message', maxLength: 1000 }),
            account: StringColumn({ label: 'Account on the device' }),
            request_id: StringColumn({ label: 'Request id' }),
            retryable: BooleanColumn({ label: 'Retryable' }),
            retry_after: IntegerColumn({ label: 'Retry after (seconds)' }),
            outcome: StringColumn({ label: 'Outcome: done, not_done or unknown' }),
            note: StringColumn({ label: 'Work note', maxLength: 300 }),
        },
    },
    (params) => {
        const called = wfa.actionStep(
            actionStep.script,
            { $id: Now.ID['action_ask'], label: 'Call' },
            {
                required_run_time: 'instance',
                script: Now.include('../scripts/action.js'),
                inputVariables: {
                    serial_number: { label: 'Serial number', value: wfa.dataPill(params.inputs.serial_number, 'string') },
                    device_id: { label: 'Device id', value: wfa.dataPill(params.inputs.device_id, 'string') },
                    expected_account: { label: 'Expected account', value: wfa.dataPill(params.inputs.expected_account, 'string') },
                    dry_run: { label: 'Dry run', value: wfa.dataPill(params.inputs.dry_run, 'boolean') },
                    reference: { label: 'Reference', value: wfa.dataPill(params.inputs.reference, 'string') },
                },
                outputVariables: {
                    code: StringColumn({ label: 'Code' }),
                    status: IntegerColumn({ label: 'Status' }),
                    message: StringColumn({ label: 'Message', maxLength: 1000 }),
                    account: StringColumn({ label: 'Account on the device' }),
                    request_id: StringColumn({ label: 'Request id' }),
                    retryable: BooleanColumn({ label: 'Retryable' }),
                    retry_after: IntegerColumn({ label: 'Retry after (seconds)' }),
                    outcome: StringColumn({ label: 'Outcome' }),
                    note: StringColumn({ label: 'Work note', maxLength: 300 }),
                },
            }
        )
        wfa.assignActionOutputs(params.outputs, {
            code: wfa.dataPill(called.code, 'string'),
            status: wfa.dataPill(called.status, 'integer'),
            message: wfa.dataPill(called.message, 'string'),
            account: wfa.dataPill(called.account, 'string'),
            request_id: wfa.dataPill(called.request_id, 'string'),
            retryable: wfa.dataPill(called.retryable, 'boolean'),
            retry_after: wfa.dataPill(called.retry_after, 'integer'),
            outcome: wfa.dataPill(called.outcome, 'string'),
            note: wfa.dataPill(called.note, 'string'),
        })
    }
)

// Operators may start the action from a client.
Acl({
    $id: Now.ID['action_acl'],
    type: 'client_callable_flow_object',
    name: `${config.scope}.unassign_resource_account`,
    operation: 'execute',
    roles: [operator],
    description: 'Operators may start the action from a client.',
    adminOverrides: true,
    active: true,
})
