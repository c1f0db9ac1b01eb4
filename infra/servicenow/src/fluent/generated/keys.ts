import '@servicenow/sdk/global'

declare global {
    namespace Now {
        namespace Internal {
            interface Keys extends KeysRegistry {
                explicit: {
                    action: {
                        table: 'sys_hub_action_type_definition'
                        id: 'e8f3290ffdcd4aa6938ec04f9c597494'
                    }
                    action_acl: {
                        table: 'sys_security_acl'
                        id: '6ce98ae7c4234faf83a385d335f46799'
                    }
                    action_ask: {
                        table: 'sys_hub_step_instance'
                        id: '4a98739f3daa41a7b62d2f522348edb2'
                    }
                    again: {
                        table: 'sysevent_script_action'
                        id: 'b2db9570a4a5405bbab1abcbd80581a8'
                    }
                    alias: {
                        table: 'sys_alias'
                        id: 'ad29d8c9165d461891f9acbecf5a700e'
                    }
                    alias_property: {
                        table: 'sys_properties'
                        id: '51636df306374974b4e637cb23c9c26d'
                    }
                    allow_interactive: {
                        table: 'sys_properties'
                        id: 'ed6ba3d37e6a459e87fa96d82238d404'
                    }
                    asset: {
                        table: 'sys_script_include'
                        id: '246c78657e004183bb60d60b49ec6946'
                    }
                    asset_read: {
                        table: 'sys_scope_privilege'
                        id: '4926d804d4db40018bc1d973522586ae'
                    }
                    asset_write: {
                        table: 'sys_scope_privilege'
                        id: '61e725a61ae84eccb434ac2a00144ba2'
                    }
                    attempts: {
                        table: 'sys_properties'
                        id: '40855bbf75fc420999bf5e3c52f465b6'
                    }
                    auth: {
                        table: 'sys_properties'
                        id: '34978e2b706441e1990589ae02127b69'
                    }
                    bom_json: {
                        table: 'sys_module'
                        id: '71a142123f0b4f2bba0e008d3161e030'
                    }
                    button: {
                        table: 'sys_ui_action'
                        id: 'cc2e504e2dd84b139ba8bf7b6fcb7605'
                    }
                    check: {
                        table: 'sysauto_script'
                        id: '6e6a50000d1f46bbac10938750f25146'
                    }
                    check_serial: {
                        table: 'sys_properties'
                        id: '7e15a682176148f3bd38e661f08c33b4'
                    }
                    client: {
                        table: 'sys_script_include'
                        id: '006e5f2832014388ae65a481b1b3e1ef'
                    }
                    device_id_field: {
                        table: 'sys_properties'
                        id: 'ee1c5f59f04c4b61973004cc04f10947'
                    }
                    dry_run: {
                        table: 'sys_properties'
                        id: '951356ad1ae848dfafaeb3e8191f5ee6'
                    }
                    event: {
                        table: 'sysevent_register'
                        id: 'ba696e0639b34a79a3ef91f6fec6371f'
                    }
                    expected_field: {
                        table: 'sys_properties'
                        id: 'ace1587cd9ad4a93aff2bbb0ba5c6f43'
                    }
                    note_task_field: {
                        table: 'sys_properties'
                        id: '8ff6fc9e94a64a67965fe8fda09dc248'
                    }
                    oauth_profile: {
                        table: 'sys_properties'
                        id: 'c404ca51867c45d49c7cc8795c21ec16'
                    }
                    package_json: {
                        table: 'sys_module'
                        id: 'c2ce89f2ef4a4addb860696217c88b0d'
                    }
                    retirement: {
                        table: 'sys_script'
                        id: 'e56c0809507646c8ac4e6af2db25914b'
                    }
                    retry: {
                        table: 'sys_retry_policy'
                        id: '92309cba2cad4e609732f420f1e4aa5b'
                    }
                    secret: {
                        table: 'sys_properties'
                        id: '4e070bf82ed74880aa550e2d3234655b'
                    }
                    test_answers: {
                        table: 'sys_atf_test'
                        id: '57da5234f59940b5b0f6b3d22fad7d0c'
                    }
                    test_answers_step: {
                        table: 'sys_atf_step'
                        id: '37fd7a4636d444c089b9d1c9f91f5c81'
                    }
                    test_signature: {
                        table: 'sys_atf_test'
                        id: '5dd8f68bd51b4b02a38dc8a8977693fe'
                    }
                    test_signature_step: {
                        table: 'sys_atf_step'
                        id: '8e1e76affda046978a7a5d03d4c6ed88'
                    }
                    url: {
                        table: 'sys_properties'
                        id: '857075fc3e4c4cd48ce21eb03c38a794'
                    }
                }
                composite: [
                    {
                        table: 'sys_element_mapping'
                        id: '000094ac8b024fffb244c246b49eaa04'
                        key: {
                            field: 'expected_account'
                            table: 'var__m_sys_hub_step_ext_input_4a98739f3daa41a7b62d2f522348edb2'
                            id: '4a98739f3daa41a7b62d2f522348edb2'
                        }
                    },
                    {
                        table: 'sys_hub_step_ext_output'
                        id: '015df795448c45c4b415874ab162a451'
                        key: {
                            model: '4a98739f3daa41a7b62d2f522348edb2'
                            element: 'retryable'
                        }
                    },
                    {
                        table: 'sys_element_mapping'
                        id: '05362a9ef2cf430c8f4c0548dec28423'
                        key: {
                            field: 'dry_run'
                            table: 'var__m_sys_hub_step_ext_input_4a98739f3daa41a7b62d2f522348edb2'
                            id: '4a98739f3daa41a7b62d2f522348edb2'
                        }
                    },
                    {
                        table: 'sys_hub_action_input'
                        id: '10b7f1f38ba3408187e47f9e772a366c'
                        key: {
                            model: 'e8f3290ffdcd4aa6938ec04f9c597494'
                            element: 'dry_run'
                        }
                    },
                    {
                        table: 'sys_hub_action_input'
                        id: '16a4d8f37df3462a843f059a5d1b41cd'
                        key: {
                            model: 'e8f3290ffdcd4aa6938ec04f9c597494'
                            element: 'expected_account'
                        }
                    },
                    {
                        table: 'sys_hub_action_input'
                        id: '16b1b18c35f7431e93d633cb585a36a1'
                        key: {
                            model: 'e8f3290ffdcd4aa6938ec04f9c597494'
                            element: 'device_id'
                        }
                    },
                    {
                        table: 'sys_documentation'
                        id: '1978cde0890d416a8e1fdf2a64702893'
                        key: {
                            name: 'var__m_sys_hub_action_output_e8f3290ffdcd4aa6938ec04f9c597494'
                            element: '__dont_treat_as_error__'
                            language: 'en'
                        }
                    },
                    {
                        table: 'sys_documentation'
                        id: '1b9162e7734d4295905bb1c13bee1152'
                        key: {
                            name: 'var__m_sys_hub_action_output_e8f3290ffdcd4aa6938ec04f9c597494'
                            element: '__action_status__'
                            language: 'en'
                        }
                    },
                    {
                        table: 'sys_element_mapping'
                        id: '1e0415c62f0a4f7d8279460e6b65104e'
                        key: {
                            field: 'device_id'
                            table: 'var__m_sys_hub_step_ext_input_4a98739f3daa41a7b62d2f522348edb2'
                            id: '4a98739f3daa41a7b62d2f522348edb2'
                        }
                    },
                    {
                        table: 'sys_documentation'
                        id: '25307a3dda20422a9ab96298562e51f2'
                        key: {
                            name: 'var__m_sys_hub_action_input_e8f3290ffdcd4aa6938ec04f9c597494'
                            element: 'expected_account'
                            language: 'en'
                        }
                    },
                    {
                        table: 'sys_hub_step_ext_input'
                        id: '2b6a8652813c4a6e86f5de7b6bb71bab'
                        key: {
                            model: '4a98739f3daa41a7b62d2f522348edb2'
                            element: 'device_id'
                        }
                    },
                    {
                        table: 'sys_hub_action_input'
                        id: '2e737b4e27e9417a97ba49af8114fea7'
                        key: {
                            model: 'e8f3290ffdcd4aa6938ec04f9c597494'
                            element: 'reference'
                        }
                    },
                    {
                        table: 'sys_user_role'
                        id: '34ff172b7d9946b18875c7a87e61cc66'
                        key: {
                            name: 'x_apunassign.admin'
                        }
                    },
                    {
                        table: 'sys_hub_step_ext_output'
                        id: '3707082a698d45db9189ca58ec484ced'
                        key: {
                            model: '4a98739f3daa41a7b62d2f522348edb2'
                            element: 'account'
                        }
                    },
                    {
                        table: 'sys_documentation'
                        id: '42e810c7a373443a989990752978d1f4'
                        key: {
                            name: 'var__m_sys_hub_action_input_e8f3290ffdcd4aa6938ec04f9c597494'
                            element: 'serial_number'
                            language: 'en'
                        }
                    },
                    {
                        table: 'sys_hub_step_ext_input'
                        id: '45eff1271e294b969375e0c193adfe1f'
                        key: {
                            model: '4a98739f3daa41a7b62d2f522348edb2'
                            element: 'dry_run'
                        }
                    },
                    {
                        table: 'sys_hub_action_output'
                        id: '46723ade801d45a5bf7ceb2a8b4c8b27'
                        key: {
                            model: 'e8f3290ffdcd4aa6938ec04f9c597494'
                            element: 'account'
                        }
                    },
                    {
                        table: 'sys_hub_action_output'
                        id: '46fd460febe54420a2ba928b6f4e5645'
                        key: {
                            model: 'e8f3290ffdcd4aa6938ec04f9c597494'
                            element: 'code'
                        }
                    },
                    {
                        table: 'sys_documentation'
                        id: '4b3a551c8c84451db7802375677ae7db'
                        key: {
                            name: 'var__m_sys_hub_action_output_e8f3290ffdcd4aa6938ec04f9c597494'
                            element: 'retryable'
                            language: 'en'
                        }
                    },
                    {
                        table: 'sys_variable_value'
                        id: '4c004d7dc253495fa29d529de59a53e7'
                        key: {
                            document_key: '37fd7a4636d444c089b9d1c9f91f5c81'
                            variable: '989d9e235324220002c6435723dc3484'
                        }
                    },
                    {
                        table: 'sys_element_mapping'
                        id: '4cef753e24374c00a35dd685273bbe90'
                        key: {
                            field: 'serial_number'
                            table: 'var__m_sys_hub_step_ext_input_4a98739f3daa41a7b62d2f522348edb2'
                            id: '4a98739f3daa41a7b62d2f522348edb2'
                        }
                    },
                    {
                        table: 'sys_element_mapping'
                        id: '4d65a31daab446e6b74f9a362ed68f09'
                        key: {
                            field: 'retryable'
                            table: 'var__m_sys_hub_action_output_e8f3290ffdcd4aa6938ec04f9c597494'
                            id: 'e8f3290ffdcd4aa6938ec04f9c597494'
                        }
                    },
                    {
                        table: 'sys_security_acl_role'
                        id: '4f3b3556866d4e27bee5996b16bfda36'
                        key: {
                            sys_security_acl: '6ce98ae7c4234faf83a385d335f46799'
                            sys_user_role: {
                                id: '61f692b4ae9d4f4fbc460707e8b9759c'
                                key: {
                                    name: 'x_apunassign.operator'
                                }
                            }
                        }
                    },
                    {
                        table: 'sys_hub_action_output'
                        id: '50a3cc63142f40999612193fb1d7ecea'
                        key: {
                            model: 'e8f3290ffdcd4aa6938ec04f9c597494'
                            element: 'retry_after'
                        }
                    },
                    {
                        table: 'sys_documentation'
                        id: '548f070f1c0944e1898f3b4e6fd82472'
                        key: {
                            name: 'var__m_sys_hub_action_output_e8f3290ffdcd4aa6938ec04f9c597494'
                            element: 'retry_after'
                            language: 'en'
                        }
                    },
                    {
                        table: 'sys_hub_step_ext_input'
                        id: '578c82fb897740a592df498b0ee55b14'
                        key: {
                            model: '4a98739f3daa41a7b62d2f522348edb2'
                            element: 'reference'
                        }
                    },
                    {
                        table: 'sys_hub_step_ext_input'
                        id: '5b259584e52a4d77b7e846a313e17528'
                        key: {
                            model: '4a98739f3daa41a7b62d2f522348edb2'
                            element: 'serial_number'
                        }
                    },
                    {
                        table: 'sys_hub_step_ext_output'
                        id: '5ccb8a7df2fb4129a203364645b940a7'
                        key: {
                            model: '4a98739f3daa41a7b62d2f522348edb2'
                            element: 'outcome'
                        }
                    },
                    {
                        table: 'sys_hub_action_output'
                        id: '61bac08e068e4ade8c45f6e396521ed9'
                        key: {
                            model: 'e8f3290ffdcd4aa6938ec04f9c597494'
                            element: '__dont_treat_as_error__'
                        }
                    },
                    {
                        table: 'sys_user_role'
                        id: '61f692b4ae9d4f4fbc460707e8b9759c'
                        key: {
                            name: 'x_apunassign.operator'
                        }
                    },
                    {
                        table: 'sys_hub_step_ext_output'
                        id: '672675275a164b1b91780e5e8d2d50a6'
                        key: {
                            model: '4a98739f3daa41a7b62d2f522348edb2'
                            element: 'note'
                        }
                    },
                    {
                        table: 'sys_hub_action_output'
                        id: '6c24975a433c4a01b568ad2ea188e661'
                        key: {
                            model: 'e8f3290ffdcd4aa6938ec04f9c597494'
                            element: 'outcome'
                        }
                    },
                    {
                        table: 'sys_documentation'
                        id: '74644e3a2c8c4dcfb19fa9b797f893ff'
                        key: {
                            name: 'var__m_sys_hub_action_output_e8f3290ffdcd4aa6938ec04f9c597494'
                            element: 'code'
                            language: 'en'
                        }
                    },
                    {
                        table: 'sys_documentation'
                        id: '755350d455e1499da04959c3ca270869'
                        key: {
                            name: 'var__m_sys_hub_action_output_e8f3290ffdcd4aa6938ec04f9c597494'
                            element: 'status'
                            language: 'en'
                        }
                    },
                    {
                        table: 'sys_variable_value'
                        id: '7caf6f78a9d74a1089c9f76487438dbe'
                        key: {
                            document_key: '37fd7a4636d444c089b9d1c9f91f5c81'
                            variable: '42f2564b73031300440211d8faf6a777'
                        }
                    },
                    {
                        table: 'sys_documentation'
                        id: '7fcb8d803e5547fea437c9da6fc709cb'
                        key: {
                            name: 'var__m_sys_hub_action_output_e8f3290ffdcd4aa6938ec04f9c597494'
                            element: 'message'
                            language: 'en'
                        }
                    },
                    {
                        table: 'sys_ui_action_role'
                        id: '8076a4a8e6e34c8b8244a71fd4c8b8d2'
                        key: {
                            sys_ui_action: 'cc2e504e2dd84b139ba8bf7b6fcb7605'
                            sys_user_role: {
                                id: '61f692b4ae9d4f4fbc460707e8b9759c'
                                key: {
                                    name: 'x_apunassign.operator'
                                }
                            }
                        }
                    },
                    {
                        table: 'sys_hub_action_input'
                        id: '84de5602f0504698a64df7b557a157a0'
                        key: {
                            model: 'e8f3290ffdcd4aa6938ec04f9c597494'
                            element: 'serial_number'
                        }
                    },
                    {
                        table: 'sys_hub_step_ext_output'
                        id: '93a5bb73c4da4d33932b982651a1d35b'
                        key: {
                            model: '4a98739f3daa41a7b62d2f522348edb2'
                            element: 'message'
                        }
                    },
                    {
                        table: 'sys_hub_action_output'
                        id: '9a37062277694f43b82ab7d5509a4b2b'
                        key: {
                            model: 'e8f3290ffdcd4aa6938ec04f9c597494'
                            element: 'retryable'
                        }
                    },
                    {
                        table: 'sys_element_mapping'
                        id: '9cd93883dad8437397b6cc0d80badf65'
                        key: {
                            field: 'request_id'
                            table: 'var__m_sys_hub_action_output_e8f3290ffdcd4aa6938ec04f9c597494'
                            id: 'e8f3290ffdcd4aa6938ec04f9c597494'
                        }
                    },
                    {
                        table: 'sys_documentation'
                        id: 'a376484490f84ec4b9651f74ce7b1a5f'
                        key: {
                            name: 'var__m_sys_hub_action_output_e8f3290ffdcd4aa6938ec04f9c597494'
                            element: 'outcome'
                            language: 'en'
                        }
                    },
                    {
                        table: 'sys_variable_value'
                        id: 'a423968d82f64ed8a817e4a2dd92cd25'
                        key: {
                            document_key: '8e1e76affda046978a7a5d03d4c6ed88'
                            variable: '42f2564b73031300440211d8faf6a777'
                        }
                    },
                    {
                        table: 'sys_variable_value'
                        id: 'aac82982da6b457ca0b8bb405bae97c5'
                        key: {
                            document_key: '8e1e76affda046978a7a5d03d4c6ed88'
                            variable: '989d9e235324220002c6435723dc3484'
                        }
                    },
                    {
                        table: 'sys_hub_action_output'
                        id: 'b06c227bff0f4274a50417a1542a5967'
                        key: {
                            model: 'e8f3290ffdcd4aa6938ec04f9c597494'
                            element: 'request_id'
                        }
                    },
                    {
                        table: 'sys_documentation'
                        id: 'b718ab408f774db1a5f742607b7b4c76'
                        key: {
                            name: 'var__m_sys_hub_action_input_e8f3290ffdcd4aa6938ec04f9c597494'
                            element: 'device_id'
                            language: 'en'
                        }
                    },
                    {
                        table: 'sys_hub_step_ext_input'
                        id: 'baa92fe09f3441cca726202067c1a5b6'
                        key: {
                            model: '4a98739f3daa41a7b62d2f522348edb2'
                            element: 'expected_account'
                        }
                    },
                    {
                        table: 'sys_element_mapping'
                        id: 'bc20655dac5b46558e16d138c35c36ae'
                        key: {
                            field: 'message'
                            table: 'var__m_sys_hub_action_output_e8f3290ffdcd4aa6938ec04f9c597494'
                            id: 'e8f3290ffdcd4aa6938ec04f9c597494'
                        }
                    },
                    {
                        table: 'sys_variable_value'
                        id: 'c18414d7aa164ce3a68302bf582127d4'
                        key: {
                            document_key: '4a98739f3daa41a7b62d2f522348edb2'
                            variable: '71aa7f6647032200b4fad7527c9a719b'
                        }
                    },
                    {
                        table: 'sys_hub_step_ext_output'
                        id: 'c1cc3f29ef7647259108b301af49c352'
                        key: {
                            model: '4a98739f3daa41a7b62d2f522348edb2'
                            element: 'request_id'
                        }
                    },
                    {
                        table: 'sys_element_mapping'
                        id: 'c685f46017644a07b1f6c901fb4152af'
                        key: {
                            field: 'note'
                            table: 'var__m_sys_hub_action_output_e8f3290ffdcd4aa6938ec04f9c597494'
                            id: 'e8f3290ffdcd4aa6938ec04f9c597494'
                        }
                    },
                    {
                        table: 'sys_hub_action_output'
                        id: 'c9acf1a555fe47149298c535d03b34be'
                        key: {
                            model: 'e8f3290ffdcd4aa6938ec04f9c597494'
                            element: 'message'
                        }
                    },
                    {
                        table: 'sys_element_mapping'
                        id: 'cc99c04221eb485c919371933373b8af'
                        key: {
                            field: 'retry_after'
                            table: 'var__m_sys_hub_action_output_e8f3290ffdcd4aa6938ec04f9c597494'
                            id: 'e8f3290ffdcd4aa6938ec04f9c597494'
                        }
                    },
                    {
                        table: 'sys_hub_action_output'
                        id: 'cd42f1ee4a8f40a4a29c0f27d24b6626'
                        key: {
                            model: 'e8f3290ffdcd4aa6938ec04f9c597494'
                            element: 'note'
                        }
                    },
                    {
                        table: 'sys_element_mapping'
                        id: 'ce67eb7d22a24eb686cb340017d5d540'
                        key: {
                            field: 'status'
                            table: 'var__m_sys_hub_action_output_e8f3290ffdcd4aa6938ec04f9c597494'
                            id: 'e8f3290ffdcd4aa6938ec04f9c597494'
                        }
                    },
                    {
                        table: 'sys_documentation'
                        id: 'd01a6a6abbd5490e82cae95655a622d8'
                        key: {
                            name: 'var__m_sys_hub_action_input_e8f3290ffdcd4aa6938ec04f9c597494'
                            element: 'dry_run'
                            language: 'en'
                        }
                    },
                    {
                        table: 'sys_hub_action_output'
                        id: 'd06f551758e54fce9dab2d63134a9c11'
                        key: {
                            model: 'e8f3290ffdcd4aa6938ec04f9c597494'
                            element: 'status'
                        }
                    },
                    {
                        table: 'sys_documentation'
                        id: 'd59bba1cee30420f9aa36b953d8103ef'
                        key: {
                            name: 'var__m_sys_hub_action_output_e8f3290ffdcd4aa6938ec04f9c597494'
                            element: 'account'
                            language: 'en'
                        }
                    },
                    {
                        table: 'sys_element_mapping'
                        id: 'd930a2b1a6a944a8a897789a8e8a3889'
                        key: {
                            field: 'account'
                            table: 'var__m_sys_hub_action_output_e8f3290ffdcd4aa6938ec04f9c597494'
                            id: 'e8f3290ffdcd4aa6938ec04f9c597494'
                        }
                    },
                    {
                        table: 'sys_element_mapping'
                        id: 'dcdf191202b8487f8a77bdf40d87105b'
                        key: {
                            field: 'reference'
                            table: 'var__m_sys_hub_step_ext_input_4a98739f3daa41a7b62d2f522348edb2'
                            id: '4a98739f3daa41a7b62d2f522348edb2'
                        }
                    },
                    {
                        table: 'sys_documentation'
                        id: 'ddc3ff5cc0f2431bbd6986134c32d30c'
                        key: {
                            name: 'var__m_sys_hub_action_output_e8f3290ffdcd4aa6938ec04f9c597494'
                            element: 'request_id'
                            language: 'en'
                        }
                    },
                    {
                        table: 'sys_hub_action_output'
                        id: 'e2a29e8b9ae04313bd5ccdb7c44d2ec9'
                        key: {
                            model: 'e8f3290ffdcd4aa6938ec04f9c597494'
                            element: '__action_status__'
                        }
                    },
                    {
                        table: 'sys_hub_step_ext_output'
                        id: 'e77c3399b3604cbeb41f0fefd1881b9e'
                        key: {
                            model: '4a98739f3daa41a7b62d2f522348edb2'
                            element: 'code'
                        }
                    },
                    {
                        table: 'sys_element_mapping'
                        id: 'e9c85ea51c9e4775b72aa56693eff7e6'
                        key: {
                            field: 'outcome'
                            table: 'var__m_sys_hub_action_output_e8f3290ffdcd4aa6938ec04f9c597494'
                            id: 'e8f3290ffdcd4aa6938ec04f9c597494'
                        }
                    },
                    {
                        table: 'sys_element_mapping'
                        id: 'e9f23111855444dd9dd35778bc52800f'
                        key: {
                            field: 'code'
                            table: 'var__m_sys_hub_action_output_e8f3290ffdcd4aa6938ec04f9c597494'
                            id: 'e8f3290ffdcd4aa6938ec04f9c597494'
                        }
                    },
                    {
                        table: 'sys_documentation'
                        id: 'eae26394640a4df6b755942a3a54b718'
                        key: {
                            name: 'var__m_sys_hub_action_input_e8f3290ffdcd4aa6938ec04f9c597494'
                            element: 'reference'
                            language: 'en'
                        }
                    },
                    {
                        table: 'sys_hub_step_ext_output'
                        id: 'eb0f881971fd418ea0a980bfa62df33c'
                        key: {
                            model: '4a98739f3daa41a7b62d2f522348edb2'
                            element: 'retry_after'
                        }
                    },
                    {
                        table: 'sys_variable_value'
                        id: 'ed993c8c1b0d4b06b834b167d5261a9c'
                        key: {
                            document_key: '4a98739f3daa41a7b62d2f522348edb2'
                            variable: '74315b04b3201300176b051a16a8dc2b'
                        }
                    },
                    {
                        table: 'sys_user_role_contains'
                        id: 'ef7d16ed764c40d6a930f82ba3b2bd70'
                        key: {
                            role: {
                                id: '34ff172b7d9946b18875c7a87e61cc66'
                                key: {
                                    name: 'x_apunassign.admin'
                                }
                            }
                            contains: {
                                id: '61f692b4ae9d4f4fbc460707e8b9759c'
                                key: {
                                    name: 'x_apunassign.operator'
                                }
                            }
                        }
                    },
                    {
                        table: 'sys_hub_step_ext_output'
                        id: 'f6fd2499163849baa052bb9409685c02'
                        key: {
                            model: '4a98739f3daa41a7b62d2f522348edb2'
                            element: 'status'
                        }
                    },
                    {
                        table: 'sys_documentation'
                        id: 'f8fd4e5ddce046ef8d40d1d9a20fae07'
                        key: {
                            name: 'var__m_sys_hub_action_output_e8f3290ffdcd4aa6938ec04f9c597494'
                            element: 'note'
                            language: 'en'
                        }
                    },
                ]
            }
        }
    }
}
