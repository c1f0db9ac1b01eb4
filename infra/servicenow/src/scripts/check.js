// A dry run for a serial number that need not exist: an unknown device proves as well as a known one that the function accepts the
// caller.
(function () {
    var client = new AutopilotUnassign();
    var result = client.ask({ serialNumber: client.setting('check_serial', 'CHECK-CONNECTION'), dryRun: true, reference: 'check' });
    var line = new AutopilotUnassignAsset().line('check', result, result.message, '', 'the check', new GlideDateTime().getValue());
    if (result.code === 'would_unassign' || result.code === 'already_unassigned' || result.code === 'device_not_found') {
        gs.info('The connection works. ' + line);
    } else {
        gs.error('The connection does not work. ' + line);
    }
})();
