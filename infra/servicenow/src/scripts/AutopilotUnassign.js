// Calls Autopilot Unassign for one device, and turns any response into one plain object.
//
// It is ES5, which Rhino runs everywhere, and knows nothing of assets or notes. It sends one request: its caller decides about a
// retry, and each attempt has a signature of its own. Never call it while a user waits.
var AutopilotUnassign = Class.create();

// The statuses that a retry may cure. Everything else needs a person.
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
    // that its retries keep. It never throws. The result has
    //
    //   status        the HTTP status, or 0 without one
    //   code          the function's code, or one of ours: no_answer, no_function_answer, not_configured, interactive_session
    //   message       a sentence
    //   outcome       done, not_done or unknown
    //   retryable     whether a retry may help
    //   retryAfter    the seconds to wait before a retry, or 0 where the response names none
    //   account       the account that the device carried, where the response names it, else ''
    //   requestId, graphRequestId, deviceId, serialNumber    where they are known, else ''
    ask: function (request, id) {
        var stage = { doing: 'read the settings' }, message, response;
        if (gs.isInteractive() && this.setting('allow_interactive', 'false') !== 'true') {
            return this._result(0, 'interactive_session', 'Nothing was sent: a user would have to wait. Call from an asynchronous rule, a job or a flow in the background.', 'not_done');
        }
        try {
            message = this._message(this._settings(stage), id || ('' + gs.generateGUID()), this.encode(this._labelled(request)), stage);
        } catch (e) {
            // The platform's own words may have the key in them. Only sentences of this script are repeated.
            return this._result(0, 'not_configured', 'Nothing was sent: ' + (e && e.own === true ? e.message
                : 'the platform refused to ' + stage.doing + '. Look at Module Access Policies, the connection and the OAuth profile.'), 'not_done');
        }
        try {
            response = message.execute();
            return this.read(Number(response.getStatusCode()), response.getBody(), this._retryAfter(response), this._header(response, 'X-Request-Id'));
        } catch (e) {
            // The platform's own words may have the address in them.
            return this._result(0, 'no_answer', 'No response, so the outcome is unknown. Retrying is safe.', 'unknown');
        }
    },

    // encode returns the JSON of a request in ASCII without a dollar sign. So no encoding and no variable
    // substitution of the platform changes the signed bytes.
    encode: function (request) {
        return JSON.stringify(request).replace(/[$\u007f-\uffff]/g, function (c) {
            return '\\u' + ('000' + c.charCodeAt(0).toString(16)).slice(-4);
        });
    },

    // visible returns a text without invisible characters and with plain spaces alone.
    visible: function (text) {
        return this._text(text).replace(/[\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff\ufff9-\ufffb]/g, '')
            .replace(/[\s\u0000-\u001f\u007f-\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+/g, ' ').replace(/^ | $/g, '');
    },

    // label returns a text that the function takes as a reference: visible, whole characters, at most 128. A label never stops the job.
    label: function (text) {
        return this.visible(text).replace(/[\ud800-\udbff](?![\udc00-\udfff])/g, '').replace(/(^|[^\ud800-\udbff])[\udc00-\udfff]/g, '$1')
            .slice(0, 128).replace(/[\ud800-\udbff]$/, '').replace(/ $/, '');
    },

    // _labelled returns a copy of a request whose reference the function takes.
    _labelled: function (request) {
        var copy = {}, name;
        for (name in request) {
            if (request.hasOwnProperty(name)) {
                copy[name] = request[name];
            }
        }
        copy.reference = this.label(request.reference);
        if (copy.reference === '') {
            delete copy.reference;
        }
        return copy;
    },

    // sign returns the headers of the Standard Webhooks scheme. The secret is as in Key Vault, whsec_ and base64: the platform wants
    // a key in base64, so only the prefix comes off.
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

    // read returns the result for a response. A response without X-Request-Id or not in the form of the contract is not the function's:
    // gateways, login pages and homepages send statuses too.
    read: function (status, body, retryAfter, requestId) {
        var parsed = null, result;
        if (!status) {
            return this._result(0, 'no_answer', 'No response, so the outcome is unknown. Retrying is safe.', 'unknown');
        }
        requestId = this._text(requestId);
        if (status === 204 && requestId) {
            result = this._result(204, 'unassigned', 'The device has no resource account any more.', 'done');
            result.requestId = requestId;
            return result;
        }
        try {
            parsed = requestId ? JSON.parse(body) : null;
        } catch (e) {
            parsed = null;
        }
        if (parsed && status === 200 && /^(unassigned|already_unassigned|would_unassign)$/.test(parsed.code)) {
            result = this._result(status, parsed.code, parsed.message, parsed.code === 'would_unassign' ? 'not_done' : 'done');
        } else if (parsed && status >= 400 && parsed.error && parsed.error.code) {
            result = this._result(status, parsed.error.code, parsed.error.message, parsed.outcome === 'not_done' ? 'not_done' : 'unknown');
        } else {
            parsed = null;
            result = this._result(status, 'no_function_answer', 'Status ' + status + ' came from something in front of the function. Check the URL.', status >= 400 && status < 500 ? 'not_done' : 'unknown');
        }
        result.retryable = AutopilotUnassign.RETRY[status] === true;
        result.retryAfter = result.retryable ? retryAfter || 0 : 0;
        if (parsed) {
            result.requestId = this._text(parsed.requestId);
            result.graphRequestId = this._text(parsed.graphRequestId || (parsed.graph && parsed.graph.requestId));
            result.deviceId = this._text(parsed.deviceId);
            result.serialNumber = this._text(parsed.serialNumber);
            result.account = this._text(parsed.account && (parsed.account.userPrincipalName || parsed.account.resourceName));
        }
        return result;
    },

    _result: function (status, code, message, outcome) {
        return {
            status: status, code: this._text(code), message: this._text(message), outcome: outcome, retryable: false, retryAfter: 0,
            account: '', requestId: '', graphRequestId: '', deviceId: '', serialNumber: ''
        };
    },

    // _settings returns the address and the credential. A connection of the alias takes precedence over the properties.
    _settings: function (stage) {
        var s = { auth: this.setting('auth', 'signature'), url: this.setting('url', ''), secret: this.setting('secret', ''), profile: this.setting('oauth_profile', '') };
        var alias = this.setting('alias', ''), connection;
        stage.doing = 'read the credential of the connection';
        connection = alias && new sn_cc.ConnectionInfoProvider().getConnectionInfo(alias);
        if (connection) {
            s.url = this._text(connection.getAttribute('connection_url')).trim() || s.url;
            s.secret = (this._text(connection.getCredentialAttribute('api_key')) || this._text(connection.getCredentialAttribute('password'))).trim() || s.secret;
        }
        if (!/^https:\/\/[^\s?#]+$/.test(s.url)) {
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

    // _message returns the request. Its body is set as it is: with variable substitution the signature would not match.
    _message: function (settings, id, body, stage) {
        var message = new sn_ws.RESTMessageV2(), headers = {}, name;
        stage.doing = 'prepare the request';
        message.setEndpoint(settings.url);
        message.setHttpMethod('POST');
        message.setHttpTimeout(28000); // the function responds within 25 seconds
        switch (settings.auth) {
        case 'signature':
            stage.doing = 'sign the request';
            headers = this.sign(settings.secret, id, Math.floor(new GlideDateTime().getNumericValue() / 1000), body);
            stage.doing = 'prepare the request';
            break;
        case 'api_key':
            headers['x-api-key'] = settings.secret;
            break;
        case 'function_key':
            headers['x-functions-key'] = settings.secret;
            break;
        case 'oauth':
            stage.doing = 'use the OAuth profile';
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
        if (message.disableForcedVariableSubstitution) { // some releases do not have it
            message.disableForcedVariableSubstitution();
        }
        return message;
    },

    // _header returns a header of a response, however the servers in between have written its name.
    _header: function (response, name) {
        return this._text(response.getHeader(name) || response.getHeader(name.toLowerCase()) || response.getHeader(name.replace(/Id$/, 'ID'))).trim();
    },

    // _retryAfter returns the seconds of Retry-After, a number or a date; 0 where it cannot be read.
    _retryAfter: function (response) {
        var value = this._header(response, 'Retry-After'), at;
        if (/^[0-9]{1,9}$/.test(value)) {
            return Number(value);
        }
        at = value === '' ? NaN : Date.parse(value);
        return isNaN(at) ? 0 : Math.max(0, Math.ceil((at - new GlideDateTime().getNumericValue()) / 1000));
    },

    _text: function (value) {
        return value === null || value === undefined ? '' : '' + value;
    },

    // _own returns an error whose sentence everybody may read.
    _own: function (sentence) {
        var e = new Error(sentence);
        e.own = true;
        return e;
    },

    type: 'AutopilotUnassign'
};
