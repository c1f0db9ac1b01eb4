package config

import "github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"

// Cloud holds the addresses of the services of a cloud (https://learn.microsoft.com/graph/deployments; the
// authorities are azcore's). Microsoft documents token issuers in no single place: the cloud's discovery document
// names the issuer of version 2 tokens, in China another host than the authority (MSAL's table of endpoints has it);
// one host issues the version 1 tokens of all clouds but China.
type Cloud struct {
	Authority   string
	IssuerV1    string // of tokens, up to the tenant's id
	IssuerV2    string
	Graph       string
	VaultSuffix string // of the vault's host name; "" permits any host
	Exchange    string // the audience of federated tokens; documented for the public cloud only
	Custom      bool
}

func listClouds() map[string]Cloud {
	const sts, stsChina = "https://sts.windows.net/", "https://sts.chinacloudapi.cn/"
	const gov = "api://AzureADTokenExchangeUSGov"
	public, government := cloud.AzurePublic.ActiveDirectoryAuthorityHost,
		cloud.AzureGovernment.ActiveDirectoryAuthorityHost
	return map[string]Cloud{
		"public": {
			Authority: public, IssuerV1: sts, IssuerV2: public, Graph: "https://graph.microsoft.com",
			VaultSuffix: ".vault.azure.net", Exchange: "api://AzureADTokenExchange",
		},
		"usgov": {
			Authority: government, IssuerV1: sts, IssuerV2: government, Graph: "https://graph.microsoft.us",
			VaultSuffix: ".vault.usgovcloudapi.net", Exchange: gov,
		},
		"usgov-dod": {
			Authority: government, IssuerV1: sts, IssuerV2: government, Graph: "https://dod-graph.microsoft.us",
			VaultSuffix: ".vault.usgovcloudapi.net", Exchange: gov,
		},
		"china": {
			Authority: cloud.AzureChina.ActiveDirectoryAuthorityHost, IssuerV1: stsChina,
			IssuerV2: "https://login.partner.microsoftonline.cn/", Graph: "https://microsoftgraph.chinacloudapi.cn",
			VaultSuffix: ".vault.azure.cn", Exchange: "api://AzureADTokenExchangeChina",
		},
	}
}

// setCloud sets the cloud that AZURE_CLOUD names. Only a custom cloud has addresses of its own.
func (s *settings) setCloud(c *Config) {
	if s.cloudName != customCloud {
		c.Cloud = listClouds()[s.cloudName]
		s.refuseValue(s.authority, "AZURE_AUTHORITY_HOST", "AZURE_CLOUD=custom")
		s.refuseValue(s.graphEndpoint, "GRAPH_ENDPOINT", "AZURE_CLOUD=custom")
		return
	}
	s.requireValue(s.authority, "AZURE_AUTHORITY_HOST", "AZURE_CLOUD=custom")
	s.requireValue(s.graphEndpoint, "GRAPH_ENDPOINT", "AZURE_CLOUD=custom")
	public := listClouds()["public"]
	c.Cloud = Cloud{
		Authority: s.authority, IssuerV1: public.IssuerV1, IssuerV2: s.authority + "/", Graph: s.graphEndpoint,
		Exchange: public.Exchange, Custom: true,
	}
}
