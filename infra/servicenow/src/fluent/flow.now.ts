import { Acl, BooleanColumn, IntegerColumn, StringColumn } from '@servicenow/sdk/core'
import { Action, action, actionStep, Flow, trigger, wfa } from '@servicenow/sdk/automation'
import config from '../../now.config.json'
import { operator } from './settings.now'

// A script step, which needs no subscription of Integration Hub. The build makes the action and the flow as drafts.
export const unassign = Action(
    {
        $id: Now.ID['action'],
        name: 'Unassign resource account',
        internalName: 'unassign_resource_account',
        description: 'Asks Autopilot Unassign once about one device, by its serial number or its Autopilot id. It does not fail: the outputs say what happened.',
        category: 'autopilot_unassign',
        access: 'package_private',
        inputs: {
            serial_number: StringColumn({ label: 'Serial number', hint: 'The whole serial number. Give this or the device id.' }),
            device_id: StringColumn({ label: 'Device id', hint: 'The id of the Autopilot device identity.' }),
            expected_account: StringColumn({ label: 'Expected account', hint: 'Refuse if the device carries another account by now.' }),
            dry_run: BooleanColumn({ label: 'Dry run', default: true, hint: 'Say what would happen, and change nothing.' }),
            reference: StringColumn({ label: 'Reference', maxLength: 128, hint: 'Your ticket, for the audit record.' }),
        },
        outputs: {
            code: StringColumn({ label: 'Code' }),
            status: IntegerColumn({ label: 'Status' }),
            message: StringColumn({ label: 'Message', maxLength: 1000 }),
            request_id: StringColumn({ label: 'Request id' }),
            retryable: BooleanColumn({ label: 'Retryable' }),
            retry_after: IntegerColumn({ label: 'Retry after (seconds)' }),
            outcome: StringColumn({ label: 'Outcome: done, not_done or unknown' }),
            note: StringColumn({ label: 'Work note', maxLength: 300 }),
        },
    },
    (params) => {
        const asked = wfa.actionStep(
            actionStep.script,
            { $id: Now.ID['action_ask'], label: 'Ask' },
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
                    request_id: StringColumn({ label: 'Request id' }),
                    retryable: BooleanColumn({ label: 'Retryable' }),
                    retry_after: IntegerColumn({ label: 'Retry after (seconds)' }),
                    outcome: StringColumn({ label: 'Outcome' }),
                    note: StringColumn({ label: 'Work note', maxLength: 300 }),
                },
            }
        )
        wfa.assignActionOutputs(params.outputs, {
            code: wfa.dataPill(asked.code, 'string'),
            status: wfa.dataPill(asked.status, 'integer'),
            message: wfa.dataPill(asked.message, 'string'),
            request_id: wfa.dataPill(asked.request_id, 'string'),
            retryable: wfa.dataPill(asked.retryable, 'boolean'),
            retry_after: wfa.dataPill(asked.retry_after, 'integer'),
            outcome: wfa.dataPill(asked.outcome, 'string'),
            note: wfa.dataPill(asked.note, 'string'),
        })
    }
)

// Who may start the action from a client.
Acl({
    $id: Now.ID['action_acl'],
    type: 'client_callable_flow_object',
    name: `${config.scope}.unassign_resource_account`,
    operation: 'execute',
    roles: [operator],
    description: 'Starting the action from a client is for operators.',
    adminOverrides: true,
    active: true,
})

// A model to copy: asks, asks once more after five minutes where that may help, and writes the note. Use it or the business rule,
// not both.
Flow(
    {
        $id: Now.ID['flow'],
        name: 'Autopilot Unassign on retirement (sample)',
        description: 'Asks for the resource account to be taken off when a hardware asset becomes retired, as a dry run.',
        runAs: 'system',
    },
    wfa.trigger(
        trigger.record.updated,
        { $id: Now.ID['flow_trigger'] },
        { table: 'alm_hardware', condition: 'install_status=7', run_flow_in: 'background', trigger_strategy: 'unique_changes' }
    ),
    (params) => {
        const first = wfa.action(
            unassign,
            { $id: Now.ID['flow_first'] },
            {
                serial_number: wfa.dataPill(params.trigger.current.serial_number, 'string'),
                reference: wfa.dataPill(params.trigger.current.asset_tag, 'string'),
                dry_run: true,
            }
        )
        wfa.flowLogic.if({ $id: Now.ID['flow_retryable'], condition: `${wfa.dataPill(first.retryable, 'boolean')}=true` }, () => {
            wfa.flowLogic.waitForADuration({ $id: Now.ID['flow_wait'], durationType: 'explicit_duration', duration: Duration({ minutes: 5 }) })
            const second = wfa.action(
                unassign,
                { $id: Now.ID['flow_second'] },
                {
                    serial_number: wfa.dataPill(params.trigger.current.serial_number, 'string'),
                    reference: wfa.dataPill(params.trigger.current.asset_tag, 'string'),
                    dry_run: true,
                }
            )
            wfa.action(
                action.core.updateRecord,
                { $id: Now.ID['flow_second_note'] },
                {
                    table_name: 'alm_hardware',
                    record: wfa.dataPill(params.trigger.current, 'reference'),
                    values: TemplateValue({ work_notes: wfa.dataPill(second.note, 'string') }),
                }
            )
        })
        wfa.flowLogic.else({ $id: Now.ID['flow_final'] }, () => {
            wfa.action(
                action.core.updateRecord,
                { $id: Now.ID['flow_first_note'] },
                {
                    table_name: 'alm_hardware',
                    record: wfa.dataPill(params.trigger.current, 'reference'),
                    values: TemplateValue({ work_notes: wfa.dataPill(first.note, 'string') }),
                }
            )
        })
    }
)
