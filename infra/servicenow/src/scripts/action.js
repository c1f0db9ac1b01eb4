(function execute(inputs, outputs) {
    function text(value) {
        return value === null || value === undefined ? '' : ('' + value).trim();
    }
    var request = {}, answer;
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
        request.reference = text(inputs.reference).slice(0, 128);
    }
    // A flow hands booleans on as true, 'true' or '1'. Whatever is not clearly false is a dry run.
    request.dryRun = !/^(false|0)$/.test(text(inputs.dry_run));
    answer = new AutopilotUnassign().ask(request);
    outputs.code = answer.code;
    outputs.status = answer.status;
    outputs.message = answer.message;
    outputs.request_id = answer.requestId;
    outputs.retryable = answer.retryable;
    outputs.retry_after = answer.retryAfter;
    outputs.outcome = answer.outcome;
    outputs.note = new AutopilotUnassignAsset().line(new AutopilotUnassignAsset().word(answer, request.dryRun), answer, answer.message,
        request.serialNumber || request.deviceId || '', 'a flow', new GlideDateTime().getValue());
})(inputs, outputs);
