// A dry run for a serial number that need not exist. That the function knows no such device shows as well as anything else that
// it takes the caller for who he is.
(function () {
    var client = new AutopilotUnassign();
    var answer = client.ask({ serialNumber: client.setting('check_serial', 'CHECK-CONNECTION'), dryRun: true, reference: 'check' });
    var line = new AutopilotUnassignAsset().line('check', answer, answer.message, '', 'the check', new GlideDateTime().getValue());
    if (answer.code === 'would_unassign' || answer.code === 'already_unassigned' || answer.code === 'device_not_found') {
        gs.info('The connection works. ' + line);
    } else {
        gs.error('The connection does not work. ' + line);
    }
})();
