import { Test } from '@servicenow/sdk/core'

// An administrator runs these on the instance. They send nothing.
Test(
    {
        $id: Now.ID['test_signature'],
        name: 'Autopilot Unassign: signs as the function verifies',
        description: 'Computes a published signature with this instance.',
        active: true,
        failOnServerError: true,
    },
    (atf) => {
        atf.server.runServerSideScript({ $id: Now.ID['test_signature_step'], jasmineVersion: '3.1', script: Now.include('../scripts/atf-signature.js') })
    }
)

Test(
    {
        $id: Now.ID['test_answers'],
        name: 'Autopilot Unassign: reads responses',
        description: 'Reads responses, ours and others.',
        active: true,
        failOnServerError: true,
    },
    (atf) => {
        atf.server.runServerSideScript({ $id: Now.ID['test_answers_step'], jasmineVersion: '3.1', script: Now.include('../scripts/atf-responses.js') })
    }
)
