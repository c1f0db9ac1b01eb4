(function (current) {
    new AutopilotUnassignAsset().queue(current);
    gs.addInfoMessage('Autopilot Unassign has been asked. The answer comes as a work note.');
    action.setRedirectURL(current);
})(current);
