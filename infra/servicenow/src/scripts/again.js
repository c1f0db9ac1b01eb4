(function (current, event) {
    new AutopilotUnassignAsset().again(current, event.parm1, event.parm2);
})(current, event);
