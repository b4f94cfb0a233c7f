using Native.Bench.Serve;
using Native.Bench.Soak;
using Native.Kernels.Models;
using Native.Kernels.Text;
using Native.Tools;

namespace Native.Bench.Peers;

/// <summary>How servers are asked.</summary>
/// <param name="Clients">Requests under way at once: a closed loop.</param>
/// <param name="Requests">In all.</param>
/// <param name="InputTokens">Of each prompt.</param>
/// <param name="OutputTokens">Of each answer, end tokens ignored.</param>
internal sealed record ServingLoad(int Clients, int Requests, int InputTokens, int OutputTokens)
{
    /// <summary>Output tokens a second of an engine that computes these prompts one after the other and decodes full
    /// batches, with nothing around it.</summary>
    /// <param name="prefill">Its tokens of prompt a second.</param>
    /// <param name="decode">Its tokens of a batch of <see cref="Clients"/> a second.</param>
    public double Bare(double prefill, double decode) => OutputTokens / (InputTokens / prefill + OutputTokens / decode);
}

/// <summary>What a server's clients saw.</summary>
internal sealed record ServerResult(string Name, ServingResult Result);

/// <summary>Asks servers the same requests, one server after the other.</summary>
internal static class PeersServing
{
    private const int WarmUps = 2;

    // Random tokens become a text, which llama-server tokenizes again: it may be some tokens longer. llama.cpp rounds a
    // sequence's length to this.
    private const int LengthUnit = 256;

    /// <summary>Ours and, where it is there, llama.cpp's: each a process of its own with the model.</summary>
    /// <param name="model">A GGUF file.</param>
    /// <param name="threads">Threads that compute.</param>
    /// <param name="llamaServer">Path of a llama-server; null where there is none.</param>
    /// <param name="load">How they are asked.</param>
    /// <param name="report">Told how much of 1 is done, and what is at hand.</param>
    /// <param name="ct">Ends it.</param>
    /// <exception cref="CommandException">One did not start, or did not answer.</exception>
    public static async Task<List<ServerResult>> RunAsync(string model, int threads, string? llamaServer,
        ServingLoad load, Action<double, string>? report, CancellationToken ct)
    {
        List<Prompt> prompts;
        using (ModelFile file = ModelFile.Open(model))
        {
            Tokenizer tokenizer = file.OpenTokenizer();
            prompts = Prompts.Random(WarmUps + load.Requests, load.InputTokens, load.OutputTokens, 0, tokenizer,
                new Random(0));
        }
        List<ServerResult> results = [];
        report?.Invoke(0, "Native's server starts");
        using (SoakServer ours = await SoakServer.StartAsync(model, ["--threads", $"{threads}"], ct))
        {
            results.Add(await AskAsync("Native", ours.Http, prompts, load, report, ct));
            await ours.StopAsync();
        }
        if (llamaServer is not null)
        {
            report?.Invoke(0, "llama-server starts");
            using LlamaServer theirs =
                await LlamaServer.StartAsync(llamaServer, model, threads, load.Clients,
                    ((load.InputTokens + load.OutputTokens) * 5 / 4 + LengthUnit - 1) / LengthUnit * LengthUnit, ct);
            results.Add(await AskAsync("llama-server", theirs.Url, prompts, load, report, ct));
        }
        return results;
    }

    private static async Task<ServerResult> AskAsync(string name, Uri url, List<Prompt> prompts, ServingLoad load,
        Action<double, string>? report, CancellationToken ct)
    {
        using OpenAiClient client = new(url, chat: false, model: null, ignoreEos: true);
        await client.ChooseModelAsync(ct);
        LoadGenerator generator = new(client, TimeProvider.System) { MaxConcurrency = load.Clients };
        foreach (Prompt prompt in prompts[..WarmUps])
        {
            (RequestRecord[] first, _) = await generator.ClosedLoopAsync([prompt], null, ct);
            if (first[0].Error is { } error)
                throw new CommandException($"{name} ({url}) did not answer the first request: {error}");
        }
        (RequestRecord[] records, double duration) =
            await generator.ClosedLoopAsync(prompts[WarmUps..],
                done => report?.Invoke((double)done / load.Requests, $"{name}, {done} of {load.Requests} answered"),
                ct);
        ServingResult result = new(records, duration, null);
        if (result.Completed == 0)
            throw new CommandException($"{name} ({url}) answered none of {load.Requests} requests: {records[0].Error}");
        return new ServerResult(name, result);
    }
}
