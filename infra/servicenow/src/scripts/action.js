(function execute(inputs, outputs) {
    function text(value) {
        return value === null || value === undefined ? '' : ('' + value).trim();
    }
    var request = {}, result;
    if (text(inputs.device_id)) {
        request.deviceId = text(inputs.device_id);
    }
    if (text(inputs.serial_number)) {
        request.serialNumber = text(inputs.serial_number);
    }
    if (text(inputs.expected_account)) {
        request.expected = text(inputs.expected_account).indexOf('@') >= 0 ? { userPrincipalName: text(inputs.expected_account) } : { resourceName: text(inputs.expected_account) };
    }
    if (text(inputs.reference)) {
        request.reference = text(inputs.reference);
    }
    // A flow passes booleans as true, 'true' or '1'. Anything that is not clearly false is a dry run.
    request.dryRun = !/^(false|0)$/.test(text(inputs.dry_run));
    result = new AutopilotUnassign().ask(request);
    outputs.code = result.code;
    outputs.status = result.status;
    outputs.message = result.message;
    outputs.account = result.account;
    outputs.request_id = result.requestId;
    outputs.retryable = result.retryable;
    outputs.retry_after = result.retryAfter;
    outputs.outcome = result.outcome;
    outputs.note = new AutopilotUnassignAsset().line(new AutopilotUnassignAsset().word(result, request.dryRun), result, result.message,
        request.serialNumber || request.deviceId || '', 'a flow', new GlideDateTime().getValue());
})(inputs, outputs);
