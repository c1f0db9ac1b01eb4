// Parses and binds queries with Microsoft's own language service: [{"name": …, "query": …}] on standard input, a line for each fault.
// The argument is the folder that holds node_modules.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { resolve } from 'node:path';

const require = createRequire(resolve(process.argv[2], 'package.json'));
require('@kusto/language-service-next/bridge.min.js');
require('@kusto/language-service-next/Kusto.Language.Bridge.min.js');
const { GlobalState, KustoCode, Symbols } = globalThis.Kusto.Language;

// https://learn.microsoft.com/azure/azure-monitor/reference/tables/ (the columns that the queries may use)
const tables = {
  AppTraces: 'TimeGenerated: datetime, Message: string, SeverityLevel: int, Properties: dynamic',
  AzureDiagnostics: 'TimeGenerated: datetime, ResourceProvider: string, OperationName: string, ResultType: string, CallerIPAddress: string',
  AZKVAuditLogs: 'TimeGenerated: datetime, OperationName: string, ResultType: string, Identity: dynamic, CallerIpAddress: string',
  StorageBlobLogs: 'TimeGenerated: datetime, Category: string, OperationName: string, Uri: string, CallerIpAddress: string, RequesterObjectId: string',
  StorageQueueLogs: 'TimeGenerated: datetime, Category: string, OperationName: string, Uri: string, CallerIpAddress: string, RequesterObjectId: string',
  Usage: 'TimeGenerated: datetime, DataType: string, IsBillable: bool, Quantity: real',
  _LogOperation: 'TimeGenerated: datetime, Category: string, Operation: string, Detail: string, Level: string',
};
const symbols = Object.entries(tables).map(([name, columns]) => Symbols.TableSymbol.From(`(${columns})`).WithName(name));
const globals = GlobalState.Default.WithDatabase(new Symbols.DatabaseSymbol.ctor('workspace', symbols));

const queries = JSON.parse(readFileSync(0, 'utf8'));
for (const { name, query } of queries) {
  const diagnostics = KustoCode.ParseAndAnalyze(query, globals).GetDiagnostics();
  for (let i = 0; i < diagnostics.Count; i++) {
    const { Code, Severity, Message } = diagnostics.getItem(i);
    console.log(`${name}: ${Code} ${Severity}: ${Message}`);
  }
}
