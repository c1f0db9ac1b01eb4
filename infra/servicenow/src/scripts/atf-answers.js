// What an answer is taken for, without sending anything.
(function (outputs, steps, params, stepResult, assertEqual) {
    var client = new AutopilotUnassign(), answer;
    answer = client.read(204, '', 0);
    assertEqual({ name: '204', shouldbe: 'unassigned done', value: answer.code + ' ' + answer.outcome });
    answer = client.read(429, '{"error":{"code":"graph_throttled","message":"Wait."},"outcome":"not_done"}', 7);
    assertEqual({ name: '429', shouldbe: 'graph_throttled true 7', value: answer.code + ' ' + answer.retryable + ' ' + answer.retryAfter });
    answer = client.read(404, '', 0);
    assertEqual({ name: '404 without a body', shouldbe: 'no_function_answer false', value: answer.code + ' ' + answer.retryable });
})(outputs, steps, params, stepResult, assertEqual);
