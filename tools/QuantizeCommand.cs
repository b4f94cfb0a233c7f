using System.CommandLine;
using System.Globalization;
using Native.Kernels.Files;
using Native.Kernels.Formats;
using Native.Kernels.Models;

namespace Native.Tools;

/// <summary><c>quantize</c>: the same model in fewer bits.</summary>
internal sealed class QuantizeCommand : ToolCommand
{
    private readonly Argument<string> _in = new("IN")
    {
        Description =
            "A GGUF file (of a model in parts, the first), a Hugging Face folder with safetensors, or "
                + "hf:ORG/REPO[/FILE] of either.",
    };
    private readonly Argument<string> _out = new("OUT")
    {
        Description = "The GGUF file to write. It appears when it is whole.",
    };
    private readonly Option<string> _type = new("--type")
    {
        HelpName = "TYPE",
        Required = true,
        Description = "What matrices become: " + string.Join(", ", QuantizationMix.All.Select(mix => mix.Name)) + ".",
    };
    private readonly Option<string?> _text = new("--text")
    {
        HelpName = "PATH",
        Description = "Also measure the perplexity of this text, before and after.",
    };
    private readonly Option<int?> _chunks = new("--chunks")
    {
        HelpName = "N",
        Description = "With --text: windows of 512 tokens to score at most. Default: all the text fills.",
    };
    private readonly Option<bool> _force = new("--force") { Description = "Replace OUT where it is there." };
    private readonly Option<int?> _threads = new("--threads", "-t")
    {
        HelpName = "N",
        Description = "Threads that quantize. Default: one for each physical core.",
    };
    private readonly Option<bool> _json = new("--json")
    {
        Description =
            "Print {\"tensors\":[{\"name\",\"from\",\"to\",\"meant\",\"error\"}],\"bytes_before\",\"bytes_after\"}; "
                + "with --text also \"perplexity\":{\"before\",\"after\",\"ratio\",\"scored\"}.",
    };

    public QuantizeCommand(Terminal terminal)
        : base(terminal, "quantize",
            "Writes a model's matrices in another type and prints each one's error, relative to its values by root "
                + "mean square. Vectors stay F32, metadata is kept. All but F32 to Q8_0 keep the head, or the "
                + "embedding that serves as one, at Q6_K; Q2_K and the types ending in S, M or L give more bits to "
                + "the layers of attn_v, attn_output and ffn_down that llama.cpp chooses. Rows that are no whole "
                + "blocks become Q4_0 instead of Q2_K and Q3_K, Q5_0 instead of Q4_K, Q5_1 instead of Q5_K, Q8_0 "
                + "instead of Q6_K, and F16 where those don't fit either.",
            "quantize model-F16.gguf model-Q4_K_M.gguf --type Q4_K_M",
            "quantize hf:ORG/REPO model-Q8_0.gguf --type Q8_0 --force --threads 4",
            "quantize folder model-Q6_K.gguf --type Q6_K --text wiki.test.raw --chunks 32 --json")
    {
        _type.AcceptOnlyFromAmong(StringComparer.OrdinalIgnoreCase, [.. QuantizationMix.All.Select(mix => mix.Name)]);
        _threads.Within(1, 1024);
        _chunks.Within(1, int.MaxValue);
        Add(_in);
        Add(_out);
        Add(_type);
        Add(_text);
        Add(_chunks);
        Add(_force);
        Add(_threads);
        Add(_json);
    }

    protected override async Task<int> RunAsync(ParseResult arguments)
    {
        string input = arguments.GetRequiredValue(_in), output = arguments.GetRequiredValue(_out);
        QuantizationMix mix =
            QuantizationMix.All.First(
                m => m.Name.Equals(arguments.GetRequiredValue(_type), StringComparison.OrdinalIgnoreCase));
        int threads = arguments.GetValue(_threads) ?? Environment.ProcessorCount;
        OutputFile.Check(output, arguments.GetValue(_force), input);
        input = await HubPath.ResolveAsync(input, Terminal);

        // The text's faults are better known before the work than after it.
        Perplexity? before = null;
        if (arguments.GetValue(_text) is { } text) before = await MeasureAsync("Before", input, text, arguments);

        List<Change> changes = await WriteAsync(Terminal, input, output, mix, threads);
        Perplexity? after =
            before is null ? null : await MeasureAsync("After", output, arguments.GetRequiredValue(_text)!, arguments);

        if (arguments.GetValue(_json))
        {
            Json.WriteLine(Terminal.Out, writer =>
            {
                writer.WriteStartObject();
                ModelRewrite.WriteJson(writer, changes);
                if (after is not null)
                {
                    writer.WriteStartObject("perplexity");
                    writer.WriteNumber("before", before!.Value);
                    writer.WriteNumber("after", after.Value);
                    writer.WriteNumber("ratio", after.Value / before.Value);
                    writer.WriteNumber("scored", after.Count);
                    writer.WriteEndObject();
                }
                writer.WriteEndObject();
            });
        }
        else
        {
            ModelRewrite.WriteTable(Terminal, changes);
            if (after is not null)
                Terminal.Out.WriteLine(
                    string.Create(CultureInfo.InvariantCulture,
                        $"perplexity {before!.Value:0.0000} became {after.Value:0.0000}, {(after.Value / before.Value - 1) * 100:+0.00;-0.00;0.00} %, over {after.Count} tokens"));
        }
        return Cli.Success;
    }

    /// <summary>Writes a model in another mix of types.</summary>
    /// <returns>Its tensors, and what each lost.</returns>
    internal static async Task<List<Change>> WriteAsync(
        Terminal terminal, string input, string output, QuantizationMix mix, int threads)
    {
        using Source source = Source.Open(input);
        foreach (string remark in source.Remarks) terminal.Error.WriteLine($"native: {remark}");
        List<Change> changes = [.. source.Tensors.Select(from =>
        {
            (TensorType type, TensorType? meant) = mix.Of(from.Name, from.Columns, from.Shape.Count > 1, source.Mix);
            return Change.Of(from, type, meant);
        })];
        await terminal.ProgressAsync($"Writing {Path.GetFileName(output)}",
            report => terminal.InterruptibleAsync(ct => Task.Run(() =>
        {
            ModelRewrite.Write(output, [.. source.Metadata, new("general.file_type", mix.FileType)], changes, threads,
                source.CheckUnchanged, report, ct);
            return true;
        }, ct)));
        return changes;
    }

    private async Task<Perplexity> MeasureAsync(string when, string model, string text, ParseResult arguments)
    {
        using ModelSession session =
            await ModelSession.OpenAsync(
                new ModelOptions { Path = model, MaxSequences = 1, Threads = arguments.GetValue(_threads) ?? 0 },
                Terminal);
        return await Terminal.ProgressAsync($"{when}: scoring", async report =>
        {
            int context = Math.Min(512, session.Info.MaxModelLength);
            return await Perplexity.OfAsync(Terminal, session, await File.ReadAllTextAsync(text), context,
                arguments.GetValue(_chunks),
                (done, all, soFar) => report?.Invoke((double)done / all, Perplexity.Text(soFar.Value)));
        });
    }

    /// <summary>A model to be written again: a GGUF file, or a folder as the GGUF file that says the same.</summary>
    private sealed class Source(
        IDisposable file, Action checkUnchanged, IReadOnlyList<KeyValuePair<string, object>> metadata,
        IReadOnlyList<SourceTensor> tensors, MixModel mix, IReadOnlyList<string> remarks) : IDisposable
    {
        public IReadOnlyList<KeyValuePair<string, object>> Metadata => metadata;

        public IReadOnlyList<SourceTensor> Tensors => tensors;

        public MixModel Mix => mix;

        public IReadOnlyList<string> Remarks => remarks;

        public void CheckUnchanged() => checkUnchanged();

        public static Source Open(string path)
        {
            if (Directory.Exists(path))
            {
                GgufConversion conversion = GgufConversion.Open(path);
                ModelConfig c = conversion.Config;
                return new Source(conversion, conversion.CheckUnchanged, conversion.Metadata, conversion.Tensors,
                    new MixModel(c.Architecture, c.LayerCount, c.Heads / c.KvHeads,
                        conversion.Tensors.All(t => t.Name != "output.weight")), conversion.Remarks);
            }
            // The header again, for the tensors' order and shapes.
            IReadOnlyList<GgufTensorInfo> infos;
            using (GgufFile header = GgufFile.OpenToInspect(path)) infos = header.TensorInfos;
            GgufFile file = GgufFile.Open(path);
            try
            {
                // One file of its own alignment comes of it, whatever it was read from.
                List<KeyValuePair<string, object>> metadata =
                    [.. file.Metadata.Where(
                        pair => !pair.Key.StartsWith("split.", StringComparison.Ordinal)
                            && pair.Key is not ("general.alignment" or "general.file_type"
                                or "general.quantization_version"))];
                metadata.Add(new("general.quantization_version", 2u));
                return new Source(file, file.CheckUnchanged, metadata,
                    [.. infos.Select(
                        info => new SourceTensor(info.Name, info.Shape.Count == 0 ? [1] : info.Shape,
                            file.GetTensor(info.Name)))], MixModel.Of(file), []);
            }
            catch
            {
                file.Dispose();
                throw;
            }
        }

        public void Dispose() => file.Dispose();
    }
}
