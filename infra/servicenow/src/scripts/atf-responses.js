// Reads responses. Nothing is sent.
(function (outputs, steps, params, stepResult, assertEqual) {
    var client = new AutopilotUnassign(), result;
    result = client.read(204, '', 0, 'r-1');
    assertEqual({ name: '204', shouldbe: 'unassigned done', value: result.code + ' ' + result.outcome });
    result = client.read(429, '{"error":{"code":"graph_throttled","message":"Wait."},"outcome":"not_done"}', 7, 'r-1');
    assertEqual({ name: '429', shouldbe: 'graph_throttled true 7', value: result.code + ' ' + result.retryable + ' ' + result.retryAfter });
    result = client.read(404, '', 0, '');
    assertEqual({ name: '404 without a body', shouldbe: 'no_function_answer false', value: result.code + ' ' + result.retryable });
})(outputs, steps, params, stepResult, assertEqual);
