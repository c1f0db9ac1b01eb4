// '7' is the state in the rule's condition. An asynchronous rule runs late: nothing is sent for an asset with another state by then.
(function (current) {
    new AutopilotUnassignAsset().start(current, '7');
})(current);
