using System.CommandLine;
using System.Globalization;
using System.Text.Json;
using Native.Kernels;
using Native.Kernels.Files;
using Native.Kernels.Formats;
using Native.Kernels.Models;
using Native.Kernels.Text;
using Native.Server.Serving;
using Spectre.Console;

namespace Native.Tools;

/// <summary><c>inspect</c>: what is in a model file, and what it needs.</summary>
internal sealed class InspectCommand : ToolCommand
{
    private const int ShownElements = 6, ShownCharacters = 100;

    private readonly Argument<string> _path = new("MODEL")
    {
        Description =
            "A GGUF file, a Hugging Face folder with config.json and safetensors, or hf:ORG/REPO[/FILE] of either.",
    };
    private readonly Option<int?> _context = new("--context", "-c")
    {
        HelpName = "TOKENS",
        Description = "The longest context of the memory table. Default: what the model was made for.",
    };
    private readonly Option<int?> _concurrency = new("--concurrency")
    {
        HelpName = "N",
        Description = "The most sequences at once of the memory table.",
        DefaultValueFactory = _ => 64,
    };
    private readonly KvCacheTypeArgument _kvCacheType;
    private readonly Option<bool> _json = new("--json")
    {
        Description = "Print all of it as one JSON object, arrays whole.",
    };

    public InspectCommand(Terminal terminal)
        : base(terminal, "inspect",
            "Shows a model's metadata, tensors and tokenizer, and the memory that its weights and KV cache take. Only "
                + "headers are read; a model that can't be run, for its architecture or its tensors' types, is shown "
                + "all the same.",
            "inspect model.gguf",
            "inspect model.gguf --context 32768 --concurrency 8 --kv-cache-dtype f32",
            "inspect folder --json")
    {
        _context.Within(1, 1 << 28);
        _concurrency.Within(1, 1 << 20);
        Add(_path);
        Add(_context);
        Add(_concurrency);
        _kvCacheType = new KvCacheTypeArgument(this);
        Add(_json);
    }

    protected override async Task<int> RunAsync(ParseResult arguments)
    {
        string path = await HubPath.ResolveAsync(arguments.GetRequiredValue(_path), Terminal);
        ModelFile.CheckPath(path);
        DType kvType = _kvCacheType.Read(arguments);
        ModelDescription model = Directory.Exists(path) ? OfFolder(path, kvType)
            : File.Exists(path) ? OfGguf(path, kvType)
            : throw new CommandException(
                $"{path}: there is no such file or folder; expected a GGUF file or a Hugging Face folder");
        int context = arguments.GetValue(_context) ?? Math.Max(model.ContextLength ?? 4096, 1),
            concurrency = arguments.GetValue(_concurrency) ?? 64;
        // Halves of both, down to something small.
        int[] contexts = [.. new[] { context / 64, context / 8, context }.Where(c => c > 0).Distinct()];
        int[] sequences = [.. new[] { 1, concurrency / 8, concurrency }.Where(n => n > 0).Distinct()];
        if (arguments.GetValue(_json)) WriteJson(model, contexts, sequences);
        else WriteTables(model, contexts, sequences);
        return Cli.Success;
    }

    private static ModelDescription OfGguf(string path, DType kvType)
    {
        using GgufFile file = GgufFile.OpenToInspect(path);
        string? architecture = file.Metadata.GetValueOrDefault("general.architecture") as string;
        double? Number(string key) =>
            file.Metadata.GetValueOrDefault($"{architecture}.{key}") is IConvertible and not string and not bool
                and var value ? Convert.ToDouble(value, CultureInfo.InvariantCulture) : null;
        double? layers = Number("block_count"), heads = Number("attention.head_count"),
            width = Number("embedding_length");
        double? keys = Number("attention.key_length") ?? width / heads,
            values = Number("attention.value_length") ?? keys;
        double? kvHeads = Number("attention.head_count_kv") ?? heads;
        double? head = (keys is { } k ? Columns(k) : null) + (values is { } v ? Columns(v) : null),
            bytes = layers * kvHeads * head;
        double? Columns(double headSize) =>
            headSize is > 0 and < 1 << 20 ? BackendFactory.CpuKvBytes(1, (int)headSize, kvType) / 2.0 : null;
        // Some architectures have their own number of heads in every layer.
        if (file.Metadata.GetValueOrDefault($"{architecture}.attention.head_count_kv") is int[] each)
            bytes = each.Sum(h => (double)h) * head;
        string[] types =
            [.. file.TensorInfos.Where(t => !BlockFormat.TryGet(t.Type, out _)).Select(t => BlockFormat.Name(t.Type))
                .Distinct()];
        return new ModelDescription(path, "GGUF " + file.Version, architecture ?? "not named",
            file.Metadata.GetValueOrDefault("general.name") as string,
            [.. file.Metadata],
            [.. file.TensorInfos.Select(
                t => new TensorRow(t.Name, t.Type.ToString(), t.Shape, t.Offset, t.ByteLength))])
        {
            ContextLength = Number("context_length") is > 0 and < int.MaxValue and var length ? (int)length : null,
            KvBytesPerToken = bytes is > 0 and < 1e12 ? (long)bytes : null,
            Obstacle = architecture is null ? "no general.architecture" : !ModelConfig.Supported.Contains(architecture)
                ? $"architecture '{architecture}' not supported"
                : types.Length > 0 ? $"tensor types {string.Join(", ", types)} not supported" : null,
            Tokenizer = TokenizerOf(() => Kernels.Text.Tokenizer.FromGguf(file),
                $"{file.Metadata.GetValueOrDefault("tokenizer.ggml.model")} {file.Metadata.GetValueOrDefault("tokenizer.ggml.pre")}".Trim()),
            HasChatTemplate = file.Metadata.ContainsKey("tokenizer.chat_template"),
        };
    }

    private static ModelDescription OfFolder(string path, DType kvType)
    {
        string configPath = Path.Combine(path, "config.json");
        List<KeyValuePair<string, object>> metadata = [];
        try
        {
            using JsonDocument config = JsonDocument.Parse(JsonFile.Standard(File.ReadAllBytes(configPath)));
            if (config.RootElement.ValueKind != JsonValueKind.Object)
                throw new InvalidDataException(
                    $"{configPath}: expected a JSON object, found {config.RootElement.ValueKind}");
            foreach (JsonProperty property in config.RootElement.EnumerateObject())
                metadata.Add(new(property.Name, property.Value.Clone()));
        }
        catch (JsonException e)
        {
            throw new InvalidDataException($"{configPath}: not JSON: {e.Message}", e);
        }
        List<TensorRow> tensors = [];
        using (SafetensorsFile file = SafetensorsFile.Open(path))
        {
            foreach (TensorView t in file.Tensors.Values)
                tensors.Add(new TensorRow(t.Name, t.Type.ToString(), t.Rows == 1 ? [t.Columns] : [t.Rows, t.Columns],
                    null, t.ByteLength));
            foreach ((string name, string type)
                in file.OtherTensors) tensors.Add(new TensorRow(name, type, [], null, null));
        }
        ModelConfig? shape = null;
        string? obstacle = null;
        try
        {
            using ModelFile model = ModelFile.Open(path);
            shape = model.Config;
        }
        catch (NotSupportedException e)
        {
            obstacle = e.Message;
        }
        string family = metadata.FirstOrDefault(pair => pair.Key == "model_type").Value?.ToString() ?? "not named";
        bool template = false;
        TokenizerSummary tokenizer = TokenizerOf(() =>
        {
            Tokenizer read = Kernels.Text.Tokenizer.FromFolder(path);
            template = read.ChatTemplate is not null;
            return read;
        }, File.Exists(Path.Combine(path, "tokenizer.json")) ? "tokenizer.json" : "tokenizer.model");
        return new ModelDescription(path, "Hugging Face folder", shape?.Architecture ?? family, shape?.Name, metadata,
            tensors)
        {
            ContextLength = shape?.ContextLength,
            KvBytesPerToken = shape is null ? null
                : shape.LayerCount * BackendFactory.CpuKvBytes(shape.KvHeads, shape.HeadSize, kvType),
            Obstacle = obstacle,
            Tokenizer = tokenizer,
            HasChatTemplate = template,
        };
    }

    private static TokenizerSummary TokenizerOf(Func<Tokenizer> open, string kind)
    {
        try
        {
            Tokenizer t = open();
            return new TokenizerSummary(kind, t.VocabularySize, t.BosId, t.EosId, [.. t.EndIds], t.AddsBos, t.AddsEos,
                null);
        }
        catch (Exception e) when (e is InvalidDataException or NotSupportedException or IOException)
        {
            return new TokenizerSummary(kind, 0, null, null, [], false, false, e.Message);
        }
    }

    private void WriteTables(ModelDescription model, int[] contexts, int[] sequences)
    {
        IAnsiConsole console = Terminal.Ansi(Terminal.Out);
        // In a pipe nobody's window cuts the lines.
        if (!Terminal.OutIsTerminal) console.Profile.Width = 1000;
        long parameters = model.Tensors.Sum(t => t.Elements);
        long bytes = model.Tensors.Sum(t => t.Bytes ?? 0);
        Table facts = Columns("model", "");
        Row(facts, "path", model.Path);
        Row(facts, "format", model.Format);
        Row(facts, "architecture", model.Architecture);
        if (model.Name is not null) Row(facts, "name", model.Name);
        Row(facts, "parameters", string.Create(CultureInfo.InvariantCulture, $"{parameters:N0}"));
        Row(facts, "weights in the file", Size(bytes));
        Row(facts, "context", model.ContextLength?.ToString(CultureInfo.InvariantCulture) ?? "not told");
        Row(facts, "can be run", model.Obstacle is null ? "yes" : $"no: {model.Obstacle}");
        TokenizerSummary t = model.Tokenizer;
        Row(facts, "tokenizer",
            t.Problem is null
                ? $"{t.Kind}, {t.Tokens} tokens, begins "
                    + $"with {t.Bos?.ToString(CultureInfo.InvariantCulture) ?? "none"}{(t.AddsBos ? " (added)" : "")}, ends with {string.Join(", ", t.Ends)}" : $"{t.Kind}: {t.Problem}");
        Row(facts, "chat template", model.HasChatTemplate ? "yes" : "no");
        console.Write(facts);

        Table metadata = Columns("metadata", "value");
        foreach ((string key, object value) in model.Metadata) Row(metadata, key, Shown(value));
        console.Write(metadata);

        Table tensors = Columns("tensor", "type", "shape", ">bytes", ">offset");
        foreach (TensorRow row in model.Tensors)
            Row(tensors, row.Name, row.Type, string.Join(" x ", row.Shape), Text(row.Bytes), Text(row.Offset));
        console.Write(tensors);

        Table totals = Columns("type", ">tensors", ">values", ">bytes");
        foreach (var group in model.Tensors.GroupBy(row => row.Type))
            Row(totals, group.Key, Text(group.Count()), Text(group.Sum(row => row.Elements)),
                Size(group.Sum(row => row.Bytes ?? 0)));
        console.Write(totals);

        if (model.KvBytesPerToken is not { } kvBytes)
        {
            Terminal.Out.WriteLine("KV cache: the file does not tell enough");
            return;
        }
        Terminal.Out.WriteLine(
            $"KV cache: {Size(kvBytes)} per token. Weights in memory are up to the backend, which lays them out anew.");
        Table memory = Columns(["KV cache of", .. sequences.Select(n => $">{n} sequence{(n == 1 ? "" : "s")}")]);
        foreach (int context in contexts)
            Row(memory, [$"{context} tokens", .. sequences.Select(n => SizeOf((double)kvBytes * context * n))]);
        console.Write(memory);

        static string Text(long? value) => value?.ToString(CultureInfo.InvariantCulture) ?? "?";
    }

    private void WriteJson(
        ModelDescription model, int[] contexts, int[] sequences) => Json.WriteLine(Terminal.Out, json =>
    {
        json.WriteStartObject();
        json.WriteString("path", model.Path);
        json.WriteString("format", model.Format);
        json.WriteString("architecture", model.Architecture);
        json.WriteString("name", model.Name);
        json.WriteNumber("parameters", model.Tensors.Sum(t => t.Elements));
        json.WriteNumber("weight_bytes", model.Tensors.Sum(t => t.Bytes ?? 0));
        Optional("context_length", model.ContextLength);
        json.WriteString("unsupported", model.Obstacle);
        json.WriteBoolean("chat_template", model.HasChatTemplate);
        json.WriteStartObject("tokenizer");
        json.WriteString("kind", model.Tokenizer.Kind);
        json.WriteNumber("tokens", model.Tokenizer.Tokens);
        Optional("bos", model.Tokenizer.Bos);
        Optional("eos", model.Tokenizer.Eos);
        json.Numbers("ends", model.Tokenizer.Ends);
        json.WriteBoolean("adds_bos", model.Tokenizer.AddsBos);
        json.WriteBoolean("adds_eos", model.Tokenizer.AddsEos);
        json.WriteString("problem", model.Tokenizer.Problem);
        json.WriteEndObject();
        json.WriteStartObject("metadata");
        foreach ((string key, object value) in model.Metadata)
        {
            json.WritePropertyName(key);
            WriteValue(json, value);
        }
        json.WriteEndObject();
        json.WriteStartArray("tensors");
        foreach (TensorRow row in model.Tensors)
        {
            json.WriteStartObject();
            json.WriteString("name", row.Name);
            json.WriteString("type", row.Type);
            json.WriteStartArray("shape");
            foreach (long size in row.Shape) json.WriteNumberValue(size);
            json.WriteEndArray();
            Optional("bytes", row.Bytes);
            Optional("offset", row.Offset);
            json.WriteEndObject();
        }
        json.WriteEndArray();
        Optional("kv_bytes_per_token", model.KvBytesPerToken);
        json.WriteStartArray("kv_memory");
        foreach (int context in contexts)
        {
            foreach (int n in sequences)
            {
                if (model.KvBytesPerToken is not { } kvBytes) continue;
                json.WriteStartObject();
                json.WriteNumber("context", context);
                json.WriteNumber("sequences", n);
                json.WriteNumber("bytes", (double)kvBytes * context * n);
                json.WriteEndObject();
            }
        }
        json.WriteEndArray();
        json.WriteEndObject();

        void Optional(string name, long? value)
        {
            if (value is { } v) json.WriteNumber(name, v);
            else json.WriteNull(name);
        }
    });

    private static void WriteValue(Utf8JsonWriter json, object value)
    {
        switch (value)
        {
            case string text: json.WriteStringValue(text); break;
            case bool flag: json.WriteBooleanValue(flag); break;
            case JsonElement element: element.WriteTo(json); break;
            case Array array:
                json.WriteStartArray();
                foreach (object element in array) WriteValue(json, element);
                json.WriteEndArray();
                break;
            case ulong large: json.WriteNumberValue(large); break;
            case float or double:
                double number = value is float f ? f : (double)value;
                if (!double.IsFinite(number)) json.WriteNullValue(); // JSON has no other word for it
                else if (value is float single) json.WriteNumberValue(single);
                else json.WriteNumberValue(number);
                break;
            default: json.WriteNumberValue(Convert.ToInt64(value, CultureInfo.InvariantCulture)); break;
        }
    }

    private static Table Columns(params string[] names)
    {
        Table table = new Table().Border(TableBorder.Simple);
        foreach (string name in names)
            table.AddColumn(name.StartsWith('>') ? new TableColumn(name[1..]).RightAligned() : new TableColumn(name));
        return table;
    }

    private static void Row(Table table, params string[] cells) =>
        table.AddRow([.. cells.Select(cell => Markup.Escape(Visible(cell)))]);

    /// <summary>A value on one line, long arrays and texts cut.</summary>
    private static string Shown(object value)
    {
        if (value is Array array)
        {
            string head = string.Join(", ", array.Cast<object>().Take(ShownElements).Select(Shown));
            return array.Length <= ShownElements ? $"[{head}]" : $"[{head}, ... {array.Length} in all]";
        }
        string text = Convert.ToString(value, CultureInfo.InvariantCulture)!;
        return text.Length <= ShownCharacters ? text : $"{text[..ShownCharacters]}... ({text.Length} characters)";
    }

    /// <summary>Without control characters: what a file says must not move a terminal's cursor.</summary>
    internal static string Visible(string text) =>
        text.Any(char.IsControl) ? string.Concat(text.Select(c => char.IsControl(c) ? $"\\u{(int)c:x4}" : c.ToString()))
            : text;

    internal static string Size(long bytes) => SizeOf(bytes);

    private static string SizeOf(double bytes)
    {
        string[] units = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB"];
        int unit = 0;
        while (bytes >= 1024 && unit < units.Length - 1) (bytes, unit) = (bytes / 1024, unit + 1);
        return string.Create(CultureInfo.InvariantCulture, $"{Math.Round(bytes, 1)} {units[unit]}");
    }

    private sealed record TensorRow(string Name, string Type, IReadOnlyList<long> Shape, long? Offset, long? Bytes)
    {
        public long Elements => Shape.Count == 0 ? 0 : Shape.Aggregate(1L, static (product, size) => product * size);
    }

    private sealed record TokenizerSummary(string Kind, int Tokens, int? Bos, int? Eos, int[] Ends, bool AddsBos,
        bool AddsEos, string? Problem);

    private sealed record ModelDescription(string Path, string Format, string Architecture, string? Name,
        List<KeyValuePair<string, object>> Metadata, List<TensorRow> Tensors)
    {
        public int? ContextLength { get; init; }
        public long? KvBytesPerToken { get; init; }
        public string? Obstacle { get; init; }
        public required TokenizerSummary Tokenizer { get; init; }
        public bool HasChatTemplate { get; init; }
    }
}
