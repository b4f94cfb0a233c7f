using System.CommandLine;
using System.Diagnostics;
using Native.Scheduling;

namespace Native.Tools;

/// <summary><c>generate</c>: continues a prompt.</summary>
internal sealed class GenerateCommand : ToolCommand
{
    private readonly ModelArguments _model;
    private readonly PromptArguments _prompt;
    private readonly SamplingArguments _sampling;
    private readonly Option<bool> _json = new("--json")
    {
        Description = "Print {\"ids\":[...],\"text\":...}: the output's ids, the end token among them, and its text.",
    };

    public GenerateCommand(Terminal terminal)
        : base(terminal, "generate",
            "Continues a text, or ids. Without --prompt and --ids the text is read from standard input, less one line "
                + "end at its end.",
            "generate --prompt \"Once upon a time\"",
            "generate --model model.gguf --ids 1,403,407 --max-tokens 64 --json",
            "generate --prompt \"The sea\" --temperature 0.8 --top-p 0.95 --seed 7",
            "generate --stop $'\\n' < prompt.txt")
    {
        _prompt = new PromptArguments(this);
        _model = new ModelArguments(this);
        _sampling = new SamplingArguments(this, temperature: 0);
        Add(_json);
    }

    protected override async Task<int> RunAsync(ParseResult arguments)
    {
        (string? text, int[]? ids) = _prompt.Read(arguments);
        SamplingParams sampling = _sampling.Read(arguments);
        string[] stops = _sampling.Stops(arguments);
        var options = _model.Read(arguments);
        if (text is null && ids is null)
        {
            if (Terminal.InIsTerminal)
                throw new UsageException("generate needs --prompt, --ids, or a text on standard input.");
            text = await Terminal.In.ReadToEndAsync();
            if (text.EndsWith('\n')) text = text[..^(text.EndsWith("\r\n", StringComparison.Ordinal) ? 2 : 1)];
        }

        using ModelSession session = await ModelSession.OpenAsync(options, Terminal);
        bool json = arguments.GetValue(_json);
        long started = Stopwatch.GetTimestamp();
        Completion completion = await Terminal.InterruptibleAsync(ct =>
            session.CompleteAsync(ids ?? session.EncodePrompt(text!), sampling, stops, Show, ct));
        void Show(string piece)
        {
            if (json) return;
            Terminal.Out.Write(piece);
            Terminal.Out.Flush();
        }

        if (!json)
        {
            Terminal.Out.WriteLine();
        }
        else
        {
            Json.WriteLine(Terminal.Out, writer =>
            {
                writer.WriteStartObject();
                writer.Numbers("ids", completion.Ids);
                writer.WriteString("text", completion.Text);
                writer.WriteEndObject();
            });
        }
        Terminal.Remark(ModelSession.Speed(completion.Ids.Length, started));
        return completion.Finish == FinishReason.Cancelled ? Cli.Interrupted : Cli.Success;
    }
}
