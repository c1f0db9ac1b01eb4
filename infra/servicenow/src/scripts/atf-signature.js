// The published vector of the Standard Webhooks scheme, and the escaping. They fail if this instance computes another HMAC.
(function (outputs, steps, params, stepResult, assertEqual) {
    var client = new AutopilotUnassign();
    var headers = client.sign('whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw', 'msg_p5jXN8AQM9LWM0D4loKWxJek', 1614265330, '{"test": 2432232314}');
    assertEqual({ name: 'signature', shouldbe: 'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=', value: headers['webhook-signature'] });
    assertEqual({ name: 'escaping', shouldbe: '{"reference":"M\\u00f8te\\u2028"}', value: client.encode({ reference: 'M\u00f8te\u2028' }) });
})(outputs, steps, params, stepResult, assertEqual);
