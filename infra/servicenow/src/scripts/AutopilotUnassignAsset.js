// Asks for the device of an asset, asks again later where that may help, and writes the end of it as a work note.
//
// An attempt that has to be repeated is put into the event queue for its time: no worker waits, and no user.
var AutopilotUnassignAsset = Class.create();

AutopilotUnassignAsset.FIRST_WAIT = 30; // seconds; doubled for each attempt where nobody says how long to wait
AutopilotUnassignAsset.LEAST_WAIT = 5;
AutopilotUnassignAsset.LONGEST_WAIT = 3600;
AutopilotUnassignAsset.NOTE_LENGTH = 299;

AutopilotUnassignAsset.prototype = {
    initialize: function () {
        this.client = new AutopilotUnassign();
        this.event = this.client.scope + '.unassign';
    },

    // start is called by the asynchronous rule, with the asset and the state that the rule is for. The id of the message is that of
    // the change, so that a repetition can be told from a second retirement.
    start: function (asset, state) {
        this._attempt(asset, { attempt: 1, state: state, by: this._value(asset, 'sys_updated_by'), id: asset.getUniqueValue() + '-' + this._value(asset, 'sys_mod_count') });
    },

    // queue is called by the button. It sends nothing; the event does.
    queue: function (asset) {
        gs.eventQueue(this.event, asset, this._parameter({ attempt: 1, state: this._value(asset, 'install_status'), id: '' + gs.generateGUID() }), gs.getUserName());
    },

    // again is called by the script action, with what queue or an earlier attempt put into the event.
    again: function (asset, parm1, parm2) {
        var p = ('' + parm1).split(' ');
        var attempt = Number(p[0]);
        if (p.length !== 3 || !(attempt >= 1) || !/^[A-Za-z0-9_-]+$/.test(p[2])) {
            gs.error('Autopilot Unassign: an event that is not ours was ignored.');
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
        var answer, wait, request;
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
        answer = this.client.ask(request, call.id);
        if (answer.retryable && call.attempt < this._number('attempts', 5, 1, 10)) {
            wait = Math.max(answer.retryAfter || AutopilotUnassignAsset.FIRST_WAIT * Math.pow(2, call.attempt - 1), AutopilotUnassignAsset.LEAST_WAIT);
            if (wait <= AutopilotUnassignAsset.LONGEST_WAIT) {
                this._later(asset, call, wait);
                gs.info('Autopilot Unassign: ' + answer.status + ' ' + this.plain(answer.code) + ', attempt ' + (call.attempt + 1) + ' in ' + wait + ' s. Request ' + this.plain(answer.requestId) + '.');
                return;
            }
        }
        this._note(asset, call, this.word(answer, request.dryRun), answer, answer.message);
    },

    _later: function (asset, call, wait) {
        var at = new GlideDateTime();
        at.addSeconds(wait);
        gs.eventQueueScheduled(this.event, asset, this._parameter({ attempt: call.attempt + 1, state: call.state, id: call.id }), call.by, at);
    },

    // _request returns what to ask for the asset, or null where there is nothing to ask, of which a note has been made if a person
    // must know.
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
        // Anything but false is a dry run: a setting that was mistyped must not end in a change.
        request.dryRun = this.client.setting('dry_run', 'true') !== 'false';
        request.reference = this._name(asset).replace(/[\u0000-\u001f\u007f-\u009f\u2028\u2029]/g, ' ').slice(0, 128);
        request.context = { table: '' + asset.getTableName(), sys_id: '' + asset.getUniqueValue() };
        return request;
    },

    // word says in a word or two what became of the device.
    word: function (answer, dryRun) {
        if (answer.outcome === 'not_done') {
            return dryRun && answer.code === 'would_unassign' ? 'dry run' : 'not done';
        }
        return answer.outcome; // done, unknown
    },

    // _note writes one line to the task that the asset names, or else to the asset. That does not set off the rule again: the rule
    // wants a change of the state, and this changes none.
    _note: function (asset, call, word, answer, message) {
        var note = this.line(word, answer, message, this._value(asset, 'serial_number'), call.by, new GlideDateTime().getValue());
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

    // line puts a note together. Of the parts that may be long only the message is cut.
    line: function (word, answer, message, device, by, at) {
        var head = 'Autopilot Unassign: ' + word, tail = '', room;
        if (answer) {
            head += ' (' + (answer.status || 'no status') + ' ' + this.plain(answer.code).slice(0, 40) + ')';
        }
        head += '. ';
        if (device || answer && answer.deviceId) {
            tail += ' Device ' + this.plain(device || answer.deviceId).slice(0, 40) + '.';
        }
        if (answer && answer.requestId) {
            tail += ' Request ' + this.plain(answer.requestId).slice(0, 40) + (answer.graphRequestId ? ', Graph ' + this.plain(answer.graphRequestId).slice(0, 40) : '') + '.';
        }
        tail += ' By ' + this.plain(by).slice(0, 40) + ', ' + at + ' UTC.';
        message = this.plain(message);
        room = AutopilotUnassignAsset.NOTE_LENGTH - head.length - tail.length;
        return head + (message.length > room ? message.slice(0, room - 3) + '...' : message) + tail;
    },

    // plain takes out what a journal would show as something else than text: line ends, HTML and the brackets of [code].
    plain: function (text) {
        return ('' + text).replace(/[<>\[\]&]/g, ' ').replace(/[\s\u0000-\u001f\u007f-\u009f]+/g, ' ').trim();
    },

    _value: function (record, field) {
        var value = record.getValue(field);
        return value === null || value === undefined ? '' : ('' + value).trim();
    },

    // _name is what people call the asset.
    _name: function (asset) {
        return this._value(asset, 'asset_tag') || this._value(asset, 'display_name') || '' + asset.getUniqueValue();
    },

    _number: function (name, fallback, least, most) {
        var n = Number(this.client.setting(name, fallback));
        return n >= least && n <= most ? Math.floor(n) : fallback;
    },

    type: 'AutopilotUnassignAsset'
};
