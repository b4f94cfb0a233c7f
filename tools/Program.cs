using System.Text;
using Native.Tools;

Console.OutputEncoding = new UTF8Encoding(encoderShouldEmitUTF8Identifier: false);
using Terminal terminal = Terminal.OfProcess();
return await Cli.RunAsync(args, terminal);
