using System.CommandLine;
using System.Globalization;
using Native.Kernels.Formats;
using Native.Kernels.Models;
using Spectre.Console;

namespace Native.Tools;

/// <summary><c>quantize</c>: the same model in fewer bits.</summary>
internal sealed class QuantizeCommand : ToolCommand
{
    private readonly Argument<string> _in = new("IN") { Description = "A GGUF file; of a model in parts, the first." };
    private readonly Argument<string> _out = new("OUT") { Description = "The file to write. It appears when it is whole." };
    private readonly Option<string> _type = new("--type") { HelpName = "TYPE", Required = true, Description = "What matrices become: " + string.Join(", ", QuantizationMix.All.Select(mix => mix.Name)) + "." };
    private readonly Option<bool> _force = new("--force") { Description = "Replace OUT where it is there." };
    private readonly Option<int?> _threads = new("--threads", "-t") { HelpName = "N", Description = "Threads that quantize. Default: one for each core." };
    private readonly Option<bool> _json = new("--json") { Description = "Print {\"tensors\":[{\"name\",\"from\",\"to\",\"meant\",\"error\"}],\"bytes_before\",\"bytes_after\"}." };

    public QuantizeCommand(Terminal terminal)
        : base(terminal, "quantize", "Writes a model's matrices in another type and prints each one's error, relative to its values by root mean square. Vectors stay F32, metadata is kept. All but F32 to Q8_0 keep the head, or the embedding that serves as one, at Q6_K; Q4_K_S, Q4_K_M and Q5_K_M give more bits to the layers of attn_v and ffn_down (and attn_qkv) that llama.cpp chooses. Rows that are no whole blocks become Q4_0 instead of Q2_K and Q3_K, Q5_0 instead of Q4_K, Q5_1 instead of Q5_K, Q8_0 instead of Q6_K, and F16 where those don't fit either. `perplexity` on both files tells what it costs.",
            "quantize model-F16.gguf model-Q4_K_M.gguf --type Q4_K_M",
            "quantize model.gguf smaller.gguf --type Q8_0 --force --threads 4",
            "quantize model.gguf model-Q6_K.gguf --type Q6_K --json")
    {
        _type.AcceptOnlyFromAmong(StringComparer.OrdinalIgnoreCase, [.. QuantizationMix.All.Select(mix => mix.Name)]);
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
        string input = arguments.GetRequiredValue(_in), output = arguments.GetRequiredValue(_out);
        QuantizationMix mix = QuantizationMix.All.First(m => m.Name.Equals(arguments.GetRequiredValue(_type), StringComparison.OrdinalIgnoreCase));
        int threads = arguments.GetValue(_threads) ?? Environment.ProcessorCount;
        if (Directory.Exists(input)) throw new CommandException($"{input} is a folder; quantize reads GGUF files");
        OutputFile.Check(output, arguments.GetValue(_force), input);

        using GgufFile file = GgufFile.Open(input);
        // The header again, for the tensors' order and shapes.
        IReadOnlyList<GgufTensorInfo> infos;
        using (GgufFile header = GgufFile.OpenToInspect(input)) infos = header.TensorInfos;
        int layers = file.GetInt32OrDefault($"{file.Architecture}.block_count", 0);
        bool tied = !file.Tensors.ContainsKey("output.weight");
        List<Change> changes = [];
        foreach (GgufTensorInfo info in infos)
        {
            TensorView from = file.GetTensor(info.Name);
            (TensorType type, TensorType? meant) = mix.Of(info.Name, from.Columns, info.Shape.Count > 1, layers, tied);
            changes.Add(new Change(from, new GgufTensorPlan(info.Name, type, info.Shape.Count == 0 ? [1] : info.Shape), meant));
        }

        await Terminal.ProgressAsync($"Writing {Path.GetFileName(output)}", report => Terminal.InterruptibleAsync(ct => Task.Run(() =>
        {
            Write(output, Metadata(file, mix), changes, threads, report, ct);
            return true;
        }, ct)));

        long before = changes.Sum(c => c.From.ByteLength), after = changes.Sum(c => c.To.ByteLength);
        if (arguments.GetValue(_json)) WriteJson(changes, before, after);
        else WriteTable(changes, before, after);
        return Cli.Success;
    }

    private static List<KeyValuePair<string, object>> Metadata(GgufFile file, QuantizationMix mix)
    {
        // One file of its own alignment comes of it, whatever it was read from.
        List<KeyValuePair<string, object>> pairs = [.. file.Metadata.Where(pair => !pair.Key.StartsWith("split.", StringComparison.Ordinal) && pair.Key is not ("general.alignment" or "general.file_type" or "general.quantization_version"))];
        pairs.Add(new("general.file_type", mix.FileType));
        pairs.Add(new("general.quantization_version", 2u));
        return pairs;
    }

    private static void Write(string output, List<KeyValuePair<string, object>> metadata, List<Change> changes, int threads, Action<double, string>? report, CancellationToken ct)
    {
        const int PieceBytes = 1 << 24; // of floats: enough for every thread, and little memory
        double total = Math.Max(changes.Sum(c => (double)c.From.Rows * c.From.Columns), 1), done = 0;
        using GgufWriter writer = new(output, metadata, [.. changes.Select(c => c.To)]);
        ParallelOptions parallel = new() { MaxDegreeOfParallelism = threads, CancellationToken = ct };
        foreach (Change change in changes)
        {
            TensorView from = change.From;
            BlockFormat format = BlockFormat.Of(change.To.Type);
            int columns = checked((int)from.Columns), rowBytes = checked((int)change.To.RowBytes);
            int rowsAtOnce = (int)Math.Clamp(PieceBytes / (4L * columns), 1, from.Rows);
            byte[] piece = new byte[rowsAtOnce * (long)rowBytes];
            double[] errors = new double[rowsAtOnce], squares = new double[rowsAtOnce];
            double error = 0, square = 0;
            for (long first = 0; first < from.Rows; first += rowsAtOnce)
            {
                int rows = (int)Math.Min(rowsAtOnce, from.Rows - first);
                string?[] faults = new string?[rows];
                Parallel.For(0, rows, parallel, () => (Values: new float[columns], Back: new float[columns]), (row, _, scratch) =>
                {
                    Span<byte> to = piece.AsSpan(row * rowBytes, rowBytes);
                    from.DecodeRow(first + row, scratch.Values);
                    (errors[row], squares[row]) = (0, 0);
                    if (from.Type == change.To.Type)
                    {
                        from.Row(first + row).CopyTo(to);
                        return scratch;
                    }
                    int odd = Array.FindIndex(scratch.Values, value => !float.IsFinite(value));
                    if (odd >= 0)
                    {
                        faults[row] = string.Create(CultureInfo.InvariantCulture, $"tensor {InspectCommand.Visible(from.Name)}, row {first + row}, column {odd}: expected a finite value, found {scratch.Values[odd]}");
                        return scratch;
                    }
                    format.Quantize(scratch.Values, to);
                    format.Decode(to, scratch.Back);
                    for (int i = 0; i < columns; i++)
                    {
                        double difference = scratch.Values[i] - (double)scratch.Back[i];
                        errors[row] += difference * difference;
                        squares[row] += scratch.Values[i] * (double)scratch.Values[i];
                    }
                    return scratch;
                }, _ => { });
                if (Array.Find(faults, fault => fault is not null) is { } found) throw new InvalidDataException(found);
                // In the rows' order, so that the sum does not tell how many threads there were.
                error += errors.AsSpan(0, rows).ToArray().Sum();
                square += squares.AsSpan(0, rows).ToArray().Sum();
                writer.Write(piece.AsSpan(0, rows * rowBytes));
                done += (double)rows * columns;
                report?.Invoke(done / total, "");
            }
            change.Error = square > 0 ? Math.Sqrt(error / square) : 0;
        }
        ct.ThrowIfCancellationRequested();
        writer.Complete();
    }

    private void WriteTable(List<Change> changes, long before, long after)
    {
        if (Terminal.OutIsTerminal)
        {
            Table table = new Table().Border(TableBorder.Simple).AddColumn("tensor").AddColumn("from").AddColumn("to").AddColumn(new TableColumn("relative error").RightAligned());
            foreach (Change c in changes) table.AddRow(Markup.Escape(InspectCommand.Visible(c.To.Name)), c.From.Type.ToString(), To(c), Error(c));
            Terminal.Ansi(Terminal.Out).Write(table);
        }
        else
        {
            foreach (Change c in changes) Terminal.Out.WriteLine($"{InspectCommand.Visible(c.To.Name)}\t{c.From.Type}\t{To(c)}\t{Error(c)}");
        }
        int other = changes.Count(c => c.Meant is not null);
        if (other > 0) Terminal.Out.WriteLine($"{other} tensors have rows that are no whole blocks of the type meant for them");
        Terminal.Out.WriteLine($"{InspectCommand.Size(before)} became {InspectCommand.Size(after)}");

        static string To(Change c) => c.Meant is { } meant ? $"{c.To.Type} (not {meant}: rows of {c.From.Columns})" : c.To.Type.ToString();
        static string Error(Change c) => c.From.Type == c.To.Type ? "" : c.Error.ToString("0.000000", CultureInfo.InvariantCulture);
    }

    private void WriteJson(List<Change> changes, long before, long after) => Json.WriteLine(Terminal.Out, writer =>
    {
        writer.WriteStartObject();
        writer.WriteStartArray("tensors");
        foreach (Change c in changes)
        {
            writer.WriteStartObject();
            writer.WriteString("name", c.To.Name);
            writer.WriteString("from", c.From.Type.ToString());
            writer.WriteString("to", c.To.Type.ToString());
            if (c.Meant is { } meant) writer.WriteString("meant", meant.ToString());
            writer.WriteNumber("error", c.Error);
            writer.WriteEndObject();
        }
        writer.WriteEndArray();
        writer.WriteNumber("bytes_before", before);
        writer.WriteNumber("bytes_after", after);
        writer.WriteEndObject();
    });

    /// <summary>A tensor, what it becomes, and what that costs.</summary>
    private sealed record Change(TensorView From, GgufTensorPlan To, TensorType? Meant)
    {
        /// <summary>Root of the summed squared differences over that of the squared values.</summary>
        public double Error { get; set; }
    }
}

/// <summary>The rules for files that commands write.</summary>
internal static class OutputFile
{
    /// <exception cref="UsageException">It is there and must not be replaced, or it is what is being read.</exception>
    public static void Check(string path, bool force, string? input = null)
    {
        if (path.Length == 0) throw new UsageException("OUT is empty; it must be a file's path.");
        if (Directory.Exists(path)) throw new UsageException($"{path} is a folder; OUT must be a file's path.");
        if (input is not null && SameFile(input, path)) throw new UsageException($"{path} is the file that is read; OUT must be another.");
        if (File.Exists(path) && !force) throw new UsageException($"{path} is there already; --force replaces it.");
    }

    private static bool SameFile(string a, string b) => Real(a) == Real(b);

    private static string Real(string path) => !File.Exists(path) ? Path.GetFullPath(path) : File.ResolveLinkTarget(Path.GetFullPath(path), returnFinalTarget: true)?.FullName ?? Path.GetFullPath(path);
}
