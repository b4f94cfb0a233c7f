using System.CommandLine;
using System.Globalization;
using Native.Kernels.Models;
using Native.Kernels.Text;
using Native.Server.Serving;
using Spectre.Console;

namespace Native.Tools;

/// <summary><c>tokenize</c>: the ids of a text.</summary>
internal sealed class TokenizeCommand : ToolCommand
{
    private readonly ModelArguments _model;
    private readonly Option<string?> _prompt = new("--prompt", "-p")
    {
        HelpName = "TEXT",
        Description = "The text. Without it, standard input is read, as it is.",
    };
    private readonly Option<bool> _plain = new("--plain")
    {
        Description =
            "Take special tokens written in the text, such as <|im_start|>, as plain text, and add no begin or end "
                + "token.",
    };
    private readonly Option<bool> _json = new("--json")
    {
        Description = "Print {\"ids\":[...],\"pieces\":[...]}: the ids, and each as the vocabulary writes it.",
    };

    public TokenizeCommand(Terminal terminal)
        : base(terminal, "tokenize", "Shows how a text is cut into tokens. Only the model's vocabulary is read.",
            "tokenize --prompt \"Hello, world\"",
            "tokenize --model model.gguf --prompt \"<|im_start|>user\" --json",
            "tokenize --model folder --plain < text.txt")
    {
        Add(_prompt);
        _model = new ModelArguments(this);
        Add(_plain);
        Add(_json);
    }

    protected override async Task<int> RunAsync(ParseResult arguments)
    {
        ModelOptions options = _model.Read(arguments);
        string? text = arguments.GetValue(_prompt);
        if (text is null)
        {
            if (Terminal.InIsTerminal)
                throw new UsageException("tokenize needs --prompt, or a text on standard input.");
            text = await Terminal.In.ReadToEndAsync();
        }
        using ModelFile file = ModelFile.Open(await HubPath.ResolveAsync(options.Path, Terminal));
        Tokenizer tokenizer = file.OpenTokenizer();
        bool plain = arguments.GetValue(_plain);
        int[] ids = tokenizer.Encode(text, addSpecial: !plain, parseSpecial: !plain);

        if (arguments.GetValue(_json))
        {
            Json.WriteLine(Terminal.Out, writer =>
            {
                writer.WriteStartObject();
                writer.Numbers("ids", ids);
                writer.WriteStartArray("pieces");
                foreach (int id in ids) writer.WriteStringValue(tokenizer.Piece(id));
                writer.WriteEndArray();
                writer.WriteEndObject();
            });
        }
        else if (Terminal.OutIsTerminal)
        {
            Table table =
                new Table().Border(TableBorder.Simple).AddColumn(new TableColumn("id").RightAligned())
                    .AddColumn("piece").AddColumn("text");
            foreach (int id in ids)
                table.AddRow(id.ToString(CultureInfo.InvariantCulture), Markup.Escape(Visible(tokenizer.Piece(id))),
                    tokenizer.IsSpecial(id) ? "[grey]special[/]" : Markup.Escape(Visible(tokenizer.Decode([id]))));
            Terminal.Ansi(Terminal.Out).Write(table);
            Terminal.Out.WriteLine($"{ids.Length} tokens");
        }
        else
        {
            foreach (int id in ids)
                Terminal.Out.WriteLine(
                    string.Create(CultureInfo.InvariantCulture, $"{id}\t{Visible(tokenizer.Piece(id))}"));
        }
        return Cli.Success;
    }

    /// <summary>A token on one line, control characters written out: what a file says must not move a terminal's
    /// cursor.</summary>
    private static string Visible(string piece) =>
        piece.Any(char.IsControl)
            ? string.Concat(piece.Select(c => char.IsControl(c) ? $"\\u{(int)c:x4}" : c.ToString())) : piece;
}
