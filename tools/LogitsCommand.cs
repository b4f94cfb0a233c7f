using System.CommandLine;
using System.Globalization;
using Native.Kernels.Sampling;
using Native.Scheduling;
using Native.Server.Serving;

namespace Native.Tools;

/// <summary><c>logits</c>: how probable the model finds a text, token by token, and what it expects next.</summary>
internal sealed class LogitsCommand : ToolCommand
{
    private readonly ModelArguments _model;
    private readonly PromptArguments _prompt;
    private readonly Option<int?> _top = new("--top")
    {
        HelpName = "N",
        Description = "How many of the best next tokens to print, 1 to 20.",
        DefaultValueFactory = _ => 8,
    };
    private readonly Option<bool> _json = new("--json")
    {
        Description =
            "Print {\"ids\":[...],\"logprob_of_next\":[...],\"last_top\":[[id,logprob],...]}; logprob_of_next[i] is "
                + "that of ids[i+1] after ids[0..i].",
    };

    public LogitsCommand(Terminal terminal)
        : base(terminal, "logits",
            "Scores a prompt: the natural log-probability of each token after those before it, and the best tokens "
                + "after all of them. For comparing engines; add --kv-cache-dtype f32 --float-activations for the "
                + "closest.",
            "logits --prompt \"The capital of France is\"",
            "logits --model model.gguf --ids 1,403,407 --json")
    {
        _prompt = new PromptArguments(this);
        _model = new ModelArguments(this);
        _top.Within(1, SamplingParams.MaxLogprobs);
        Add(_top);
        Add(_json);
    }

    protected override async Task<int> RunAsync(ParseResult arguments)
    {
        (string? text, int[]? ids) = _prompt.Read(arguments);
        if (text is null && ids is null) throw new UsageException("logits needs --prompt or --ids.");
        using ModelSession session = await ModelSession.OpenAsync(_model.Read(arguments), Terminal);
        ids ??= session.EncodePrompt(text!);

        int top = Math.Min(arguments.GetValue(_top) ?? 8, session.Info.VocabularySize);
        using Generation generation = session.Start(
            ids, new SamplingParams { Temperature = 0, MaxTokens = 1, Logprobs = top, PromptLogprobs = 0 });
        Piece next = await Terminal.InterruptibleAsync(ct => session.FinishAsync(generation, ct));

        if (arguments.GetValue(_json))
        {
            Json.WriteLine(Terminal.Out, writer =>
            {
                writer.WriteStartObject();
                writer.Numbers("ids", ids);
                writer.WriteStartArray("logprob_of_next");
                foreach (float logprob in generation.PromptLogprobs) writer.Logprob(logprob);
                writer.WriteEndArray();
                writer.WriteStartArray("last_top");
                foreach (TokenLogprob best in next.Alternatives.Span)
                {
                    writer.WriteStartArray();
                    writer.WriteNumberValue(best.Token);
                    writer.Logprob(best.Logprob);
                    writer.WriteEndArray();
                }
                writer.WriteEndArray();
                writer.WriteEndObject();
            });
            return Cli.Success;
        }

        void Line(int id, float? logprob) =>
            Terminal.Out.WriteLine(
                string.Create(CultureInfo.InvariantCulture, $"{logprob,10:0.0000}  {id,7}  {session.Piece(id)}"));
        Terminal.Out.WriteLine("   logprob       id  token");
        Line(ids[0], null);
        for (int i = 1; i < ids.Length; i++) Line(ids[i], generation.PromptLogprobs[i - 1]);
        Terminal.Out.WriteLine("next:");
        foreach (TokenLogprob best in next.Alternatives.Span) Line(best.Token, best.Logprob);
        return Cli.Success;
    }
}
