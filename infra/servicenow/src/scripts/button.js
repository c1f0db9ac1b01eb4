(function (current) {
    new AutopilotUnassignAsset().queue(current);
    gs.addInfoMessage('The request to Autopilot Unassign is queued. The outcome comes as a work note.');
    action.setRedirectURL(current);
})(current);
