using System.CommandLine;
using Native.Kernels.Files;
using Native.Kernels.Formats;
using Native.Kernels.Models;

namespace Native.Tools;

/// <summary><c>convert</c>: a Hugging Face folder as one GGUF file.</summary>
internal sealed class ConvertCommand : ToolCommand
{
    private const string AsTheyAre = "auto";
    private static readonly string[] Types = [AsTheyAre, "F32", "F16", "BF16", "Q8_0"];

    private readonly Argument<string> _in = new("IN")
    {
        Description = "A Hugging Face folder with config.json, safetensors and a tokenizer, or hf:ORG/REPO of one.",
    };
    private readonly Argument<string> _out = new("OUT")
    {
        Description = "The GGUF file to write. It appears when it is whole.",
    };
    private readonly Option<string> _type = new("--type")
    {
        HelpName = string.Join('|', Types),
        Description = "What matrices become; auto leaves each as it is. For fewer bits, quantize reads folders too.",
        DefaultValueFactory = _ => AsTheyAre,
    };
    private readonly Option<bool> _force = new("--force") { Description = "Replace OUT where it is there." };
    private readonly Option<int?> _threads = new("--threads", "-t")
    {
        HelpName = "N",
        Description = "Threads that work. Default: one for each physical core.",
    };
    private readonly Option<bool> _json = new("--json")
    {
        Description =
            "Print {\"tensors\":[{\"name\",\"from\",\"to\",\"meant\",\"error\"}],\"bytes_before\",\"bytes_after\",\"remarks\":[...]}.",
    };

    public ConvertCommand(Terminal terminal)
        : base(terminal, "convert",
            $"Writes a Hugging Face model as a GGUF file that llama.cpp reads "
                + $"too: {string.Join(", ", ModelConfig.Supported)}. Vectors become F32. Before anything is written, "
                + "the file's header is read back: a model or tokenizer that GGUF can't express is refused, saying "
                + "what of it.",
            "convert folder model-BF16.gguf",
            "convert hf:ORG/REPO model-F16.gguf --type F16")
    {
        _type.AcceptOnlyFromAmong(StringComparer.OrdinalIgnoreCase, Types);
        _threads.Within(1, 1024);
        Add(_in);
        Add(_out);
        Add(_type);
        Add(_force);
        Add(_threads);
        Add(_json);
    }

    protected override async Task<int> RunAsync(ParseResult arguments)
    {
        string output = arguments.GetRequiredValue(_out), type = arguments.GetRequiredValue(_type);
        OutputFile.Check(output, arguments.GetValue(_force));
        string input = await HubPath.ResolveAsync(arguments.GetRequiredValue(_in), Terminal);
        if (File.Exists(input))
            throw new CommandException(
                $"{input} is a file; convert reads Hugging Face folders (quantize writes GGUF files in other types)");

        List<Change> changes = [];
        using (GgufConversion conversion = GgufConversion.Open(input))
        {
            QuantizationMix? mix =
                QuantizationMix.All.FirstOrDefault(m => m.Name.Equals(type, StringComparison.OrdinalIgnoreCase));
            foreach (SourceTensor from in conversion.Tensors)
            {
                // No type to choose from here depends on the model.
                (TensorType to, TensorType? meant) =
                    mix?.Of(from.Name, from.Columns, from.Shape.Count > 1, default) ?? (from.Type, null);
                changes.Add(Change.Of(from, to, meant));
            }
            // A file of several types is called by the one that most of its bytes have.
            TensorType most =
                changes.Where(c => c.To.Shape.Count > 1).GroupBy(c => c.To.Type)
                    .MaxBy(group => group.Sum(c => c.To.ByteLength))!.Key;
            uint fileType = QuantizationMix.All.First(m => m.Type == most).FileType;
            await Terminal.ProgressAsync($"Writing {Path.GetFileName(output)}",
                report => Terminal.InterruptibleAsync(ct => Task.Run(() =>
            {
                ModelRewrite.Write(output, [.. conversion.Metadata, new("general.file_type", fileType)], changes,
                    arguments.GetValue(_threads) ?? Environment.ProcessorCount, conversion.CheckUnchanged, report, ct);
                return true;
            }, ct)));
            if (arguments.GetValue(_json))
            {
                Json.WriteLine(Terminal.Out, writer =>
                {
                    writer.WriteStartObject();
                    ModelRewrite.WriteJson(writer, changes);
                    writer.WriteStartArray("remarks");
                    foreach (string remark in conversion.Remarks) writer.WriteStringValue(remark);
                    writer.WriteEndArray();
                    writer.WriteEndObject();
                });
            }
            else
            {
                foreach (string remark in conversion.Remarks) Terminal.Error.WriteLine($"native: {remark}");
                ModelRewrite.WriteTable(Terminal, changes);
            }
        }
        return Cli.Success;
    }
}
