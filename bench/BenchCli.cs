using System.CommandLine;
using Native.Bench.Kernels;
using Native.Bench.Peers;
using Native.Bench.Rings;
using Native.Bench.Serve;
using Native.Bench.Simulate;
using Native.Bench.Soak;
using Native.Bench.StepTime;
using Native.Bench.Throughput;
using Native.Bench.Turns;
using Native.Tools;

namespace Native.Bench;

/// <summary>The benches' one entry, by the tools' rules.</summary>
internal static class BenchCli
{
    /// <summary>Runs one command.</summary>
    /// <returns>The exit code.</returns>
    public static Task<int> RunAsync(string[] args, Terminal terminal)
    {
        RootCommand root =
            new("Measures: how fast a model computes, and beside llama.cpp, how a server bears load, for how long, "
                + "how fast the inner loops are.");
        root.Add(new ThroughputCommand(terminal));
        root.Add(new PeersCommand(terminal));
        root.Add(new ServeCommand(terminal));
        root.Add(new SoakCommand(terminal));
        root.Add(new SchedulerCommand(terminal));
        root.Add(new RingsCommand(terminal));
        root.Add(new StepTimeCommand(terminal));
        root.Add(new SimulateCommand(terminal));
        root.Add(new KernelsCommand(terminal));
        return Cli.RunAsync(args, terminal, root, "bench", "throughput", "peers --model model.gguf",
            "serve --url http://127.0.0.1:8080 --request-rate 2", "soak --minutes 30", "scheduler", "rings",
            "steptime --model model.gguf", "simulate --load chat", "kernels --filter Q4_0", "serve --help");
    }
}
