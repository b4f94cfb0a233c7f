using System.Text;
using Native.Bench;
using Native.Tools;

Console.OutputEncoding = new UTF8Encoding(encoderShouldEmitUTF8Identifier: false);
using Terminal terminal = Terminal.OfProcess();
return await BenchCli.RunAsync(args, terminal);
