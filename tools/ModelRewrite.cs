using System.Globalization;
using System.Text.Json;
using Native.Kernels.Files;
using Native.Kernels.Formats;
using Spectre.Console;

namespace Native.Tools;

/// <summary>A tensor, what it becomes, and what that costs.</summary>
/// <param name="From">Where its values are.</param>
/// <param name="To">What is written.</param>
/// <param name="Meant">The type it was meant to get, where its rows are no whole blocks of that.</param>
internal sealed record Change(SourceTensor From, GgufTensorPlan To, TensorType? Meant)
{
    /// <summary>Root of the summed squared differences over that of the squared values.</summary>
    public double Error { get; set; }

    public static Change Of(SourceTensor from, TensorType type, TensorType? meant) =>
        new(from, new GgufTensorPlan(from.Name, type, from.Shape), meant);
}

/// <summary>Writes a model's tensors in other types, and tells what that cost.</summary>
internal static class ModelRewrite
{
    /// <summary>Writes the file, and into <paramref name="changes"/> what that cost.</summary>
    /// <param name="output">Where it will be.</param>
    /// <param name="metadata">Its metadata.</param>
    /// <param name="changes">Its tensors.</param>
    /// <param name="threads">Threads that quantize: however many, the bytes are the same.</param>
    /// <param name="check">Throws where what was read was written to meanwhile; called before the file gets its
    /// name.</param>
    /// <param name="report">Told how much of 1 is done.</param>
    /// <param name="ct">Ends it, leaving nothing.</param>
    /// <exception cref="InvalidDataException">A value is not finite, or too large for its new type.</exception>
    public static void Write(string output, IReadOnlyList<KeyValuePair<string, object>> metadata,
        IReadOnlyList<Change> changes, int threads, Action check, Action<double, string>? report, CancellationToken ct)
    {
        const int PieceBytes = 1 << 24; // of floats: enough for every thread, and little memory
        double total = Math.Max(changes.Sum(c => (double)c.From.Rows * c.From.Columns), 1), done = 0;
        using GgufWriter writer = new(output, metadata, [.. changes.Select(c => c.To)]);
        ParallelOptions parallel = new() { MaxDegreeOfParallelism = threads, CancellationToken = ct };
        foreach (Change change in changes)
        {
            SourceTensor from = change.From;
            BlockFormat format = BlockFormat.Of(change.To.Type);
            int columns = checked((int)from.Columns), rowBytes = checked((int)change.To.RowBytes);
            int rowsAtOnce = (int)Math.Clamp(PieceBytes / (4L * columns), 1, from.Rows);
            int fromBytes = checked((int)from.RowBytes);
            byte[] source = new byte[rowsAtOnce * (long)fromBytes], piece = new byte[rowsAtOnce * (long)rowBytes];
            BlockFormat fromFormat = BlockFormat.Of(from.Type);
            double[] errors = new double[rowsAtOnce], squares = new double[rowsAtOnce];
            double error = 0, square = 0;
            for (long first = 0; first < from.Rows; first += rowsAtOnce)
            {
                int rows = (int)Math.Min(rowsAtOnce, from.Rows - first);
                string?[] faults = new string?[rows];
                from.ReadRows(first, source.AsSpan(0, rows * fromBytes));
                Parallel.For(0, rows, parallel, () => (Values: new float[columns], Back: new float[columns]),
                    (row, _, scratch) =>
                {
                    Span<byte> to = piece.AsSpan(row * rowBytes, rowBytes);
                    ReadOnlySpan<byte> bytes = source.AsSpan(row * fromBytes, fromBytes);
                    fromFormat.Decode(bytes, scratch.Values);
                    (errors[row], squares[row]) = (0, 0);
                    if (from.Type == change.To.Type)
                    {
                        bytes.CopyTo(to);
                        return scratch;
                    }
                    int odd = Array.FindIndex(scratch.Values, value => !float.IsFinite(value));
                    if (odd >= 0)
                    {
                        faults[row] = Fault(from, first + row, odd, "a finite value", scratch.Values[odd]);
                        return scratch;
                    }
                    format.Quantize(scratch.Values, to);
                    format.Decode(to, scratch.Back);
                    odd = Array.FindIndex(scratch.Back, value => !float.IsFinite(value));
                    if (odd >= 0)
                    {
                        string expected = $"a value that {change.To.Type} can hold";
                        faults[row] = Fault(from, first + row, odd, expected, scratch.Values[odd]);
                        return scratch;
                    }
                    (errors[row], squares[row]) = Squares(scratch.Values, scratch.Back);
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
        check();
        writer.Complete();
    }

    /// <summary>Sums of the squared differences, and of the squared values.</summary>
    private static (double Error, double Square) Squares(float[] values, float[] back)
    {
        double error = 0, square = 0;
        for (int i = 0; i < values.Length; i++)
        {
            double difference = values[i] - (double)back[i];
            error += difference * difference;
            square += values[i] * (double)values[i];
        }
        return (error, square);
    }

    private static string Fault(SourceTensor from, long row, int column, string expected, float found) =>
        string.Create(CultureInfo.InvariantCulture,
            $"tensor {InspectCommand.Visible(from.Name)}, row {row}, column {column}: "
                + $"expected {expected}, found {found}");

    /// <summary>A line for each tensor and one for all.</summary>
    public static void WriteTable(Terminal terminal, IReadOnlyList<Change> changes)
    {
        (long before, long after) = Bytes(changes);
        if (terminal.OutIsTerminal)
        {
            Table table =
                new Table().Border(TableBorder.Simple).AddColumn("tensor").AddColumn("from").AddColumn("to")
                    .AddColumn(new TableColumn("relative error").RightAligned());
            foreach (Change c in changes)
                table.AddRow(Markup.Escape(InspectCommand.Visible(c.To.Name)), c.From.Type.ToString(), To(c), Error(c));
            Terminal.Ansi(terminal.Out).Write(table);
        }
        else
        {
            foreach (Change c in changes)
                terminal.Out.WriteLine($"{InspectCommand.Visible(c.To.Name)}\t{c.From.Type}\t{To(c)}\t{Error(c)}");
        }
        int other = changes.Count(c => c.Meant is not null);
        if (other > 0)
            terminal.Out.WriteLine($"{other} tensors have rows that are no whole blocks of the type meant for them");
        terminal.Out.WriteLine($"{InspectCommand.Size(before)} became {InspectCommand.Size(after)}");

        static string To(Change c) =>
            c.Meant is { } meant ? $"{c.To.Type} (not {meant}: rows of {c.From.Columns})" : c.To.Type.ToString();
        static string Error(Change c) =>
            c.From.Type == c.To.Type ? "" : c.Error.ToString("0.000000", CultureInfo.InvariantCulture);
    }

    /// <summary>The members "tensors", "bytes_before" and "bytes_after" of an object.</summary>
    public static void WriteJson(Utf8JsonWriter writer, IReadOnlyList<Change> changes)
    {
        (long before, long after) = Bytes(changes);
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
    }

    private static (long Before, long After) Bytes(IReadOnlyList<Change> changes) =>
        (changes.Sum(c => c.From.ByteLength), changes.Sum(c => c.To.ByteLength));
}

/// <summary>The rules for files that commands write.</summary>
internal static class OutputFile
{
    /// <exception cref="UsageException">It is there and must not be replaced, or it is what is being read.</exception>
    public static void Check(string path, bool force, string? input = null)
    {
        if (path.Length == 0) throw new UsageException("OUT is empty; it must be a file's path.");
        if (Directory.Exists(path)) throw new UsageException($"{path} is a folder; OUT must be a file's path.");
        if (input is not null && SameFile(input, path))
            throw new UsageException($"{path} is the file that is read; OUT must be another.");
        if (File.Exists(path) && !force) throw new UsageException($"{path} is there already; --force replaces it.");
    }

    private static bool SameFile(string a, string b) => Real(a) == Real(b);

    private static string Real(string path) =>
        !File.Exists(path) ? Path.GetFullPath(path)
            : File.ResolveLinkTarget(Path.GetFullPath(path), returnFinalTarget: true)?.FullName
                ?? Path.GetFullPath(path);
}
