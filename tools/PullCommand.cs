using System.CommandLine;
using System.Diagnostics;
using System.Globalization;
using Native.Server.Hub;

namespace Native.Tools;

/// <summary><c>pull</c>: downloads a model from the Hugging Face hub.</summary>
internal sealed class PullCommand : ToolCommand
{
    private readonly Argument<string> _reference = new("MODEL")
    {
        Description =
            "hf:ORG/REPO[/FILE][@REVISION]. Without FILE: the repository's config.json, tokenizer and safetensors, or "
                + "its GGUF file where it has only one.",
    };
    private readonly Option<bool> _json = new("--json")
    {
        Description = "Print {\"path\":...,\"name\":...,\"commit\":...}.",
    };

    public PullCommand(Terminal terminal)
        : base(terminal, "pull",
            "Downloads a model into the Hugging Face cache, going on from what an interrupted pull left, checks its "
                + "hash, and prints where it lies. What the official client downloaded is found, and the other way "
                + "round. "
            + "Variables: HF_HOME or HF_HUB_CACHE (where models are kept; ~/.cache/huggingface/hub), HF_TOKEN, "
                + "HF_TOKEN_PATH or the token file in HF_HOME (for gated and private models), HF_ENDPOINT (another "
                + "hub), HF_HUB_OFFLINE=1 (only look into the cache), HF_HUB_DOWNLOAD_TIMEOUT (seconds without a byte "
                + "before a connection is given up; 30).",
            "pull hf:ORG/REPO",
            "pull hf:ORG/REPO/model-Q4_K_M.gguf",
            "pull hf:ORG/REPO@v1.0 --json",
            "chat --model hf:ORG/REPO/model-Q4_K_M.gguf")
    {
        Add(_reference);
        Add(_json);
    }

    protected override async Task<int> RunAsync(ParseResult arguments)
    {
        string text = arguments.GetRequiredValue(_reference);
        if (!HubReference.TryParse(text, out HubReference? reference))
            throw new UsageException($"'{text}' is no model on the hub; one is {HubReference.Form}.");
        using ModelHub hub = new(HubOptions.FromEnvironment());
        HubModel model;
        try
        {
            model = await HubPath.DownloadAsync(reference, hub.PullAsync, Terminal);
        }
        catch (HubChoiceException e)
        {
            Terminal.Error.WriteLine($"native: {e.Message}"); // a list, so not in one line
            return Cli.Misused;
        }
        if (arguments.GetValue(_json))
        {
            Json.WriteLine(Terminal.Out, writer =>
            {
                writer.WriteStartObject();
                writer.WriteString("path", model.Path);
                writer.WriteString("name", model.Name);
                writer.WriteString("commit", model.Commit);
                writer.WriteEndObject();
            });
        }
        else
        {
            Terminal.Out.WriteLine(model.Path);
        }
        return Cli.Success;
    }
}

/// <summary>Where a model named on the command line lies.</summary>
internal static class HubPath
{
    /// <summary>A path as it is; for a model of the hub its place in the cache, downloaded before where it is not
    /// there.</summary>
    /// <exception cref="UsageException">The repository has several models, and none is named.</exception>
    public static async Task<string> ResolveAsync(string model, Terminal terminal)
    {
        if (!HubReference.TryParse(model, out HubReference? reference)) return model;
        using ModelHub hub = new(HubOptions.FromEnvironment());
        try
        {
            return (hub.Find(reference) ?? await DownloadAsync(reference, hub.PullAsync, terminal)).Path;
        }
        catch (HubChoiceException e)
        {
            throw new UsageException(e.Message);
        }
    }

    /// <summary>Downloads with a progress bar where somebody looks; Ctrl-C leaves what arrived for the next
    /// time.</summary>
    public static Task<HubModel> DownloadAsync(HubReference reference,
        Func<HubReference, IProgress<HubProgress>?, CancellationToken, Task<HubModel>> pull, Terminal terminal) =>
        terminal.InterruptibleAsync(
            ct => terminal.ProgressAsync("Downloading",
                report => pull(reference, report is null ? null : new Reporter(report), ct)));

    private sealed class Reporter(Action<double, string> report) : IProgress<HubProgress>
    {
        private readonly long _started = Stopwatch.GetTimestamp();
        private long _first = -1;

        public void Report(HubProgress value)
        {
            if (_first < 0) _first = value.Done; // what was there before is not what the line brings
            double speed = (value.Done - _first) / Math.Max(Stopwatch.GetElapsedTime(_started).TotalSeconds, 1e-3);
            string text =
                value.Note.Length > 0 ? value.Note
                    : string.Create(CultureInfo.InvariantCulture,
                        $"{value.Done >> 20} of {value.Total >> 20} MiB, {speed / 1e6:0.0} MB/s");
            report(value.Total == 0 ? 0 : (double)value.Done / value.Total, $"{value.File}: {text}");
        }
    }
}
