using System.Globalization;
using System.Text;
using Native.Bench;
using Native.Tools;

CultureInfo.DefaultThreadCurrentCulture = CultureInfo.DefaultThreadCurrentUICulture = CultureInfo.InvariantCulture;
Console.OutputEncoding = new UTF8Encoding(encoderShouldEmitUTF8Identifier: false);
using Terminal terminal = Terminal.OfProcess();
return await BenchCli.RunAsync(args, terminal);
