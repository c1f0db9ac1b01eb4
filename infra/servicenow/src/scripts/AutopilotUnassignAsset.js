// Calls the function for the device of an asset, retries later where that may help, and writes the outcome as a work note.
//
// A retry is an event that the queue takes at its time: no worker and no user waits.
var AutopilotUnassignAsset = Class.create();

AutopilotUnassignAsset.FIRST_WAIT = 30; // seconds; doubled for each attempt without Retry-After
AutopilotUnassignAsset.LEAST_WAIT = 5;
AutopilotUnassignAsset.LONGEST_WAIT = 3600;
AutopilotUnassignAsset.NOTE_LENGTH = 399;

AutopilotUnassignAsset.prototype = {
    initialize: function () {
        this.client = new AutopilotUnassign();
        this.event = this.client.scope + '.unassign';
    },

    // start makes the first attempt for the asynchronous rule, with the state in its condition. The id of the message names the
    // change: the function can tell a retry from a second retirement.
    start: function (asset, state) {
        this._attempt(asset, { attempt: 1, state: state, by: this._value(asset, 'sys_updated_by'), id: asset.getUniqueValue() + '-' + this._value(asset, 'sys_mod_count') });
    },

    // queue puts the first attempt into the event queue, for the button. It sends nothing itself.
    queue: function (asset) {
        gs.eventQueue(this.event, asset, this._parameter({ attempt: 1, state: this._value(asset, 'install_status'), id: '' + gs.generateGUID() }), gs.getUserName());
    },

    // again makes the attempt of an event, with its parameters.
    again: function (asset, parm1, parm2) {
        var p = ('' + parm1).split(' ');
        var attempt = Number(p[0]);
        if (p.length !== 3 || !(attempt >= 1) || !/^[A-Za-z0-9_-]+$/.test(p[2])) {
            gs.error('Autopilot Unassign: an event with malformed parameters was ignored.');
            return;
        }
        this._attempt(asset, { attempt: attempt, state: p[1] === '-' ? '' : p[1], by: '' + parm2, id: p[2] });
    },

    _parameter: function (call) {
        return call.attempt + ' ' + (call.state || '-') + ' ' + call.id;
    },

    // _attempt reads the asset as it is now, since rules and events run late and in any order.
    _attempt: function (changed, call) {
        var asset = new GlideRecord(changed.getTableName());
        var result, wait, request;
        if (!asset.get(changed.getUniqueValue())) {
            gs.warn('Autopilot Unassign: the asset of a request is gone.');
            return;
        }
        if (this._value(asset, 'install_status') !== call.state) {
            this._note(asset, call, 'not sent', null, 'The state of the asset has changed since.');
            return;
        }
        request = this._request(asset, call);
        if (request === null) {
            return;
        }
        result = this.client.ask(request, call.id);
        if (result.retryable && call.attempt < this._number('attempts', 5, 1, 10)) {
            wait = Math.max(result.retryAfter || AutopilotUnassignAsset.FIRST_WAIT * Math.pow(2, call.attempt - 1), AutopilotUnassignAsset.LEAST_WAIT);
            if (wait <= AutopilotUnassignAsset.LONGEST_WAIT) {
                this._later(asset, call, wait);
                gs.info('Autopilot Unassign: ' + result.status + ' ' + this.plain(result.code) + ', attempt ' + (call.attempt + 1) + ' in ' + wait + ' s. Request ' + this.plain(result.requestId) + '.');
                return;
            }
        }
        this._note(asset, call, this.word(result, request.dryRun), result, result.message);
    },

    _later: function (asset, call, wait) {
        var at = new GlideDateTime();
        at.addSeconds(wait);
        gs.eventQueueScheduled(this.event, asset, this._parameter({ attempt: call.attempt + 1, state: call.state, id: call.id }), call.by, at);
    },

    // _request returns the request for the asset, or null where nothing is to be sent. It has written a note if a person must know.
    _request: function (asset, call) {
        var request = {}, field = this.client.setting('device_id_field', ''), expected = this.client.setting('expected_field', ''), account;
        if (expected) {
            account = this._value(asset, expected);
            if (!account) {
                gs.info('Autopilot Unassign: nothing was sent for ' + this.plain(this._name(asset)) + ', whose field ' + expected + ' is empty.');
                return null;
            }
            request.expected = account.indexOf('@') >= 0 ? { userPrincipalName: account } : { resourceName: account };
        }
        if (field && this._value(asset, field)) {
            request.deviceId = this._value(asset, field);
        } else if (this._value(asset, 'serial_number')) {
            request.serialNumber = this._value(asset, 'serial_number');
        } else {
            this._note(asset, call, 'not sent', null, 'The asset has no serial number.');
            return null;
        }
        // Anything but false is a dry run: a mistyped setting must not change a device.
        request.dryRun = this.client.setting('dry_run', 'true') !== 'false';
        request.reference = this._name(asset);
        request.context = { table: '' + asset.getTableName(), sys_id: '' + asset.getUniqueValue() };
        return request;
    },

    // word returns the outcome in a word or two.
    word: function (result, dryRun) {
        if (result.outcome === 'not_done') {
            return dryRun && result.code === 'would_unassign' ? 'dry run' : 'not done';
        }
        return result.outcome; // done, unknown
    },

    // _note writes one line to the task that the asset names, or else to the asset. It does not start the rule again: the state does
    // not change.
    _note: function (asset, call, word, result, message) {
        var note = this.line(word, result, message, this._value(asset, 'serial_number'), call.by, new GlideDateTime().getValue());
        var field = this.client.setting('note_task_field', '');
        var target = asset, task;
        if (field && asset.isValidField(field) && this._value(asset, field)) {
            task = asset.getElement(field).getRefRecord();
            if (task.isValidRecord() && task.isValidField('work_notes')) {
                target = task;
            }
        }
        gs.info(note);
        if (!target.isValidField('work_notes')) {
            gs.error('Autopilot Unassign: ' + target.getTableName() + ' has no work notes.');
            return;
        }
        target.work_notes = note;
        if (!target.update()) {
            gs.error('Autopilot Unassign: a work note could not be written to ' + target.getTableName() + '.');
        }
    },

    // line returns a note. Only the message is cut.
    line: function (word, result, message, device, by, at) {
        var head = 'Autopilot Unassign: ' + word, tail = '', room;
        if (result) {
            head += ' (' + (result.status || 'no status') + ' ' + this.plain(result.code).slice(0, 40) + ')';
        }
        head += '. ';
        if (result && result.account) {
            tail += ' Account ' + this.plain(result.account).slice(0, 64) + '.';
        }
        if (device || result && result.deviceId) {
            tail += ' Device ' + this.plain(device || result.deviceId).slice(0, 40) + '.';
        }
        if (result && result.requestId) {
            tail += ' Request ' + this.plain(result.requestId).slice(0, 40) + (result.graphRequestId ? ', Graph ' + this.plain(result.graphRequestId).slice(0, 40) : '') + '.';
        }
        tail += ' By ' + this.plain(by).slice(0, 40) + ', ' + at + ' UTC.';
        message = this.plain(message);
        room = AutopilotUnassignAsset.NOTE_LENGTH - head.length - tail.length;
        return head + (message.length > room ? message.slice(0, room - 3) + '...' : message) + tail;
    },

    // plain returns a text without line ends, HTML and the brackets of [code], which a journal would interpret.
    plain: function (text) {
        return this.client.visible(('' + text).replace(/[<>\[\]&]/g, ' '));
    },

    // _value returns the visible text of a field: copied values bring odd spaces and invisible characters.
    _value: function (record, field) {
        return this.client.visible(record.getValue(field));
    },

    // _name returns the name by which people know the asset.
    _name: function (asset) {
        return this._value(asset, 'asset_tag') || this._value(asset, 'display_name') || '' + asset.getUniqueValue();
    },

    _number: function (name, fallback, least, most) {
        var n = Number(this.client.setting(name, fallback));
        return n >= least && n <= most ? Math.floor(n) : fallback;
    },

    type: 'AutopilotUnassignAsset'
};
