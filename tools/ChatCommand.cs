using System.CommandLine;
using System.Diagnostics;
using System.Text.Json;
using Native.Scheduling;

namespace Native.Tools;

/// <summary><c>chat</c>: a conversation at the terminal.</summary>
internal sealed class ChatCommand : ToolCommand
{
    private readonly ModelArguments _model;
    private readonly SamplingArguments _sampling;
    private readonly Option<string?> _system = new("--system")
    {
        HelpName = "TEXT",
        Description = "What the model is told before the conversation.",
    };

    public ChatCommand(Terminal terminal)
        : base(terminal, "chat",
            "Talks with a model through its own chat template. /reset forgets the conversation, /exit or Ctrl-D ends "
                + "it, Ctrl-C stops an answer. Lines piped in are answered one after the other.",
            "chat",
            "chat --model model.gguf --system \"You answer in one sentence.\"",
            "chat --temperature 0 --max-tokens 200")
    {
        Add(_system);
        _model = new ModelArguments(this);
        _sampling = new SamplingArguments(this, temperature: 0.7f, suggested: true);
    }

    protected override async Task<int> RunAsync(ParseResult arguments)
    {
        _sampling.Read(arguments); // mistakes before a model is loaded
        string[] stops = _sampling.Stops(arguments);
        string? system = arguments.GetValue(_system);
        using ModelSession session = await ModelSession.OpenAsync(_model.Read(arguments), Terminal);
        foreach (string warning in session.Suggested.Warnings) Terminal.Error.WriteLine($"native: {warning}");
        SamplingParams sampling = _sampling.Read(arguments, session.Suggested);
        if (session.Model.Template is null)
            throw new CommandException($"{session.Info.Name} has no chat template; generate continues texts with it");

        bool somebodyTypes = Terminal.InIsTerminal && Terminal.OutIsTerminal;
        if (somebodyTypes)
        {
            Terminal.Out.Write($"{session.Info.Name} on {session.Info.Backend}. ");
            Terminal.Out.WriteLine("/reset forgets, /exit ends, Ctrl-C stops an answer.");
        }
        List<Message> messages = [];
        void Reset()
        {
            messages.Clear();
            if (system is not null) messages.Add(new Message("system", system));
        }
        Reset();
        while (true)
        {
            if (somebodyTypes) Terminal.Out.Write("\n> ");
            Terminal.Out.Flush();
            if (await Terminal.In.ReadLineAsync() is not { } line) break;
            string said = line.Trim();
            if (said.Length == 0) continue;
            if (said == "/exit") break;
            if (said == "/reset")
            {
                Reset();
                Terminal.Remark("forgotten");
                continue;
            }
            if (said[0] == '/')
            {
                Terminal.Error.WriteLine($"native: {said.Split(' ')[0]} is none of /exit, /reset");
                continue;
            }

            messages.Add(new Message("user", line));
            try
            {
                long started = Stopwatch.GetTimestamp();
                // A new draw for every turn, and the same conversation from the same seed.
                SamplingParams turn = sampling with { Seed = sampling.Seed + (ulong)messages.Count };
                Completion answer = await Terminal.InterruptibleAsync(ct =>
                    session.CompleteAsync(Encode(session, messages), turn, stops, Show, ct));
                Terminal.Out.WriteLine();
                messages.Add(new Message("assistant", answer.Text));
                Terminal.Remark(
                    (answer.Finish == FinishReason.Cancelled ? "stopped; " : "")
                        + ModelSession.Speed(answer.Ids.Length, started));
            }
            catch (CommandException e)
            {
                // What can't be answered is as if it had not been said: the conversation goes on.
                messages.RemoveAt(messages.Count - 1);
                Terminal.Error.WriteLine($"native: {e.Message}");
                Terminal.Remark("/reset begins anew");
            }
        }
        return Cli.Success;
    }

    private void Show(string piece)
    {
        Terminal.Out.Write(piece);
        Terminal.Out.Flush();
    }

    private static int[] Encode(ModelSession session, List<Message> messages) =>
        session.EncodeChat(JsonSerializer.SerializeToElement(
            messages.Select(message => new { role = message.Role, content = message.Content })));

    private sealed record Message(string Role, string Content);
}
