package config

import "errors"

// The hosts.
const (
	Azure  = "azure"
	Lambda = "lambda"
	Local  = "local"
)

// DetectHost returns the host that started the process, by the variable that each host sets.
func DetectHost(getenv func(string) string) (string, error) {
	azure, lambda := getenv("FUNCTIONS_CUSTOMHANDLER_PORT") != "", getenv("AWS_LAMBDA_RUNTIME_API") != ""
	switch {
	case azure && lambda:
		return "", errors.New("FUNCTIONS_CUSTOMHANDLER_PORT and AWS_LAMBDA_RUNTIME_API are both set: a process has one host")
	case azure:
		return Azure, nil
	case lambda:
		return Lambda, nil
	}
	return Local, nil
}
