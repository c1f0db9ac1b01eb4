// Asks Autopilot Unassign about one device, and makes of whatever comes back one plain object.
//
// It is ES5, as Rhino runs it everywhere, and knows nothing of assets or notes. It sends once: whoever asks decides about another
// attempt, and each attempt is signed anew. Never call it while a user waits.
var AutopilotUnassign = Class.create();

// The statuses that asking again may mend. Everything else needs a person.
AutopilotUnassign.RETRY = { 408: true, 429: true, 500: true, 502: true, 503: true, 504: true };

AutopilotUnassign.prototype = {
    initialize: function () {
        this.scope = gs.getCurrentScopeName();
    },

    // setting returns the property of the application by its short name, or the fallback where it is empty.
    setting: function (name, fallback) {
        var value = gs.getProperty(this.scope + '.' + name);
        value = value === null || value === undefined ? '' : ('' + value).trim();
        return value === '' ? fallback : value;
    },

    // ask sends a request of the contract (deviceId or serialNumber, expected, dryRun, verify, reference, context) once, under an id
    // that stays the same for its repetitions. It never throws. The answer has
    //
    //   status        the HTTP status, or 0 if there is none
    //   code          the word of the function, or one of ours: no_answer, no_function_answer, not_configured, interactive_session
    //   message       a sentence
    //   outcome       what became of the device: done, not_done or unknown
    //   retryable     whether asking again may help
    //   retryAfter    for how many seconds to wait before that, or 0 if nobody has said so
    //   requestId, graphRequestId, deviceId, serialNumber    where they are known, else ''
    ask: function (request, id) {
        var message, response;
        if (gs.isInteractive() && this.setting('allow_interactive', 'false') !== 'true') {
            return this._answer(0, 'interactive_session', 'Nothing was sent: a user would have to wait. Ask from an asynchronous rule, a job or a flow in the background.', 'not_done');
        }
        try {
            message = this._message(this._settings(), id || ('' + gs.generateGUID()), this.encode(request));
        } catch (e) {
            // What the platform throws may have the key in it; only sentences of this script are repeated.
            return this._answer(0, 'not_configured', 'Nothing was sent: ' + (e && e.own === true ? e.message
                : 'the platform could not make the request. Check the key, the connection and the OAuth profile.'), 'not_done');
        }
        try {
            response = message.execute();
            return this.read(Number(response.getStatusCode()), response.getBody(), this._retryAfter(response));
        } catch (e) {
            // What is thrown may name the address; it is not repeated.
            return this._answer(0, 'no_answer', 'No answer, outcome unknown. Asking again is safe.', 'unknown');
        }
    },

    // encode returns the JSON of a request in ASCII alone, so that the bytes which are signed are those which are sent, whatever
    // the platform encodes with.
    encode: function (request) {
        return JSON.stringify(request).replace(/[\u007f-\uffff]/g, function (c) {
            return '\\u' + ('000' + c.charCodeAt(0).toString(16)).slice(-4);
        });
    },

    // sign returns the headers of the Standard Webhooks scheme. The secret is as Key Vault has it, whsec_ and base64: the platform
    // wants a key in base64, so nothing but the prefix comes off.
    sign: function (secret, id, timestamp, body) {
        var key = secret.replace(/^whsec_/, '');
        if (!/^[A-Za-z0-9+\/]+={0,2}$/.test(key) || key.length % 4 !== 0) {
            throw this._own('the signing key is not base64, with or without whsec_ in front.');
        }
        return {
            'webhook-id': id,
            'webhook-timestamp': '' + timestamp,
            'webhook-signature': 'v1,' + new CertificateEncryption().generateMac(key, 'HmacSHA256', id + '.' + timestamp + '.' + body)
        };
    },

    // read makes an answer of what came back. What does not have the form of the contract is not from the function, whatever its
    // status: gateways and login pages answer too.
    read: function (status, body, retryAfter) {
        var parsed = null, answer;
        if (!status) {
            return this._answer(0, 'no_answer', 'No answer, outcome unknown. Asking again is safe.', 'unknown');
        }
        if (status === 204) {
            return this._answer(204, 'unassigned', 'The device has no resource account any more.', 'done');
        }
        try {
            parsed = JSON.parse(body);
        } catch (e) {
            parsed = null;
        }
        if (parsed && status === 200 && /^(unassigned|already_unassigned|would_unassign)$/.test(parsed.code)) {
            answer = this._answer(status, parsed.code, parsed.message, parsed.code === 'would_unassign' ? 'not_done' : 'done');
        } else if (parsed && status >= 400 && parsed.error && parsed.error.code) {
            answer = this._answer(status, parsed.error.code, parsed.error.message, parsed.outcome === 'not_done' ? 'not_done' : 'unknown');
        } else {
            parsed = null;
            answer = this._answer(status, 'no_function_answer', 'No answer of the function: something in front of it said ' + status + '.', status >= 400 && status < 500 ? 'not_done' : 'unknown');
        }
        answer.retryable = AutopilotUnassign.RETRY[status] === true;
        answer.retryAfter = answer.retryable ? retryAfter || 0 : 0;
        if (parsed) {
            answer.requestId = this._text(parsed.requestId);
            answer.graphRequestId = this._text(parsed.graphRequestId || (parsed.graph && parsed.graph.requestId));
            answer.deviceId = this._text(parsed.deviceId);
            answer.serialNumber = this._text(parsed.serialNumber);
        }
        return answer;
    },

    _answer: function (status, code, message, outcome) {
        return {
            status: status, code: this._text(code), message: this._text(message), outcome: outcome, retryable: false, retryAfter: 0,
            requestId: '', graphRequestId: '', deviceId: '', serialNumber: ''
        };
    },

    // _settings reads where to send and with what. A connection of the alias counts before the properties.
    _settings: function () {
        var s = { auth: this.setting('auth', 'signature'), url: this.setting('url', ''), secret: this.setting('secret', ''), profile: this.setting('oauth_profile', '') };
        var alias = this.setting('alias', '');
        var connection = alias && new sn_cc.ConnectionInfoProvider().getConnectionInfo(alias);
        if (connection) {
            s.url = this._text(connection.getAttribute('connection_url')).trim() || s.url;
            s.secret = (this._text(connection.getCredentialAttribute('api_key')) || this._text(connection.getCredentialAttribute('password'))).trim() || s.secret;
        }
        if (!/^https:\/\/[^\s?#]+$/.test(s.url) && !/^http:\/\/127\.0\.0\.1[:\/][^\s?#]*$/.test(s.url)) {
            throw this._own('the URL must be the https address of the function, without a query.');
        }
        if (!/^(signature|api_key|function_key|oauth)$/.test(s.auth)) {
            throw this._own('the property auth must be signature, api_key, function_key or oauth.');
        }
        if (s.auth === 'oauth' ? !s.profile : !s.secret) {
            throw this._own(s.auth === 'oauth' ? 'the property oauth_profile is empty.' : 'there is neither a credential at the alias nor a value of the property secret.');
        }
        return s;
    },

    // _message is the request, ready to be sent. The body is set as it is: a REST Message record would look for variables in it.
    _message: function (settings, id, body) {
        var message = new sn_ws.RESTMessageV2(), headers = {}, name;
        message.setEndpoint(settings.url);
        message.setHttpMethod('POST');
        message.setHttpTimeout(28000); // the function answers within 25 seconds
        switch (settings.auth) {
        case 'signature':
            headers = this.sign(settings.secret, id, Math.floor(new GlideDateTime().getNumericValue() / 1000), body);
            break;
        case 'api_key':
            headers['x-api-key'] = settings.secret;
            break;
        case 'function_key':
            headers['x-functions-key'] = settings.secret;
            break;
        case 'oauth':
            message.setAuthenticationProfile('oauth2', settings.profile);
            break;
        }
        headers['Content-Type'] = 'application/json';
        headers.Accept = 'application/json';
        headers.Prefer = 'return=representation';
        for (name in headers) {
            if (headers.hasOwnProperty(name)) {
                message.setRequestHeader(name, headers[name]);
            }
        }
        message.setRequestBody(body);
        return message;
    },

    // _retryAfter returns the seconds of Retry-After, which may be a number or a date; 0 if there is none that can be read.
    _retryAfter: function (response) {
        var value = this._text(response.getHeader('Retry-After') || response.getHeader('retry-after')).trim();
        if (/^[0-9]{1,9}$/.test(value)) {
            return Number(value);
        }
        var at = value === '' ? NaN : Date.parse(value);
        return isNaN(at) ? 0 : Math.max(0, Math.ceil((at - new GlideDateTime().getNumericValue()) / 1000));
    },

    _text: function (value) {
        return value === null || value === undefined ? '' : '' + value;
    },

    // _own returns an error whose sentence may be shown to anyone.
    _own: function (sentence) {
        var e = new Error(sentence);
        e.own = true;
        return e;
    },

    type: 'AutopilotUnassign'
};
