// The state is that of the condition. An asynchronous rule runs late, and by then the asset may have another: nothing is sent then.
(function (current) {
    new AutopilotUnassignAsset().start(current, '7');
})(current);
