using System.Text.Json;
using Native.Kernels.Files;

namespace Native.Kernels.Text;

/// <summary>The settings in the files beside a tokenizer: tokenizer_config.json, generation_config.json, config.json,
/// added_tokens.json and the chat template's own file. Each may be absent.</summary>
internal sealed class TokenizerConfig
{
    public string? BosToken { get; private set; }
    public string? EosToken { get; private set; }
    public string? UnknownToken { get; private set; }
    public string? PadToken { get; private set; }
    public bool? AddsBos { get; private set; }
    public bool? AddsEos { get; private set; }
    public int? BosId { get; private set; }
    public List<int> EndIds { get; } = [];

    /// <summary>Whether generation_config.json lists the ids that end a generation. Then no other token does.</summary>
    public bool ListsEnds { get; private set; }

    public List<AddedToken> AddedTokens { get; } = [];
    public string? ChatTemplate { get; private set; }
    public string? ToolUseTemplate { get; private set; }

    /// <summary>Rows of the model's embedding, or 0 if config.json does not say.</summary>
    public int VocabularySize { get; private set; }

    public static TokenizerConfig Read(string folder)
    {
        var config = new TokenizerConfig();
        JsonFile.ReadIfThere(Path.Combine(folder, "tokenizer_config.json"), config.ReadTokenizerConfig);
        JsonFile.ReadIfThere(Path.Combine(folder, "added_tokens.json"), config.ReadAddedTokens);
        JsonFile.ReadIfThere(Path.Combine(folder, "generation_config.json"), config.ReadEnds);
        config.ListsEnds = config.EndIds.Count > 0;
        JsonFile.ReadIfThere(Path.Combine(folder, "config.json"), config.ReadModelConfig);
        JsonFile.ReadIfThere(Path.Combine(folder, "chat_template.json"), config.ReadChatTemplates);
        string jinja = Path.Combine(folder, "chat_template.jinja");
        if (File.Exists(jinja)) (config.ChatTemplate, config.ToolUseTemplate) = (File.ReadAllText(jinja), null);
        string tools = Path.Combine(folder, "additional_chat_templates", "tool_use.jinja");
        if (File.Exists(tools)) config.ToolUseTemplate = File.ReadAllText(tools);
        return config;
    }

    public IReadOnlyCollection<int> EndIdsWithin(int count) => [.. EndIds.Where(id => id >= 0 && id < count)];

    private void ReadTokenizerConfig(JsonField root)
    {
        BosToken = TokenText(root.Optional("bos_token"));
        EosToken = TokenText(root.Optional("eos_token"));
        UnknownToken = TokenText(root.Optional("unk_token"));
        PadToken = TokenText(root.Optional("pad_token"));
        AddsBos = root.Optional("add_bos_token")?.Boolean();
        AddsEos = root.Optional("add_eos_token")?.Boolean();
        if (root.Optional("added_tokens_decoder") is { } added)
        {
            foreach ((string name, JsonField token) in added.Members())
            {
                if (!int.TryParse(name, System.Globalization.NumberStyles.None,
                    System.Globalization.CultureInfo.InvariantCulture, out int id))
                    throw token.Wrong("an id as its name", $"'{name}'");
                AddedTokens.Add(TokenizerJson.ReadAddedToken(token, id));
            }
            AddedTokens.Sort(static (a, b) => a.Id.CompareTo(b.Id));
        }
        ReadChatTemplates(root);
    }

    /// <summary>Reads one text, or named ones as a list or an object, of which "default" and "tool_use" are
    /// used.</summary>
    private void ReadChatTemplates(JsonField root)
    {
        if (root.Optional("chat_template") is not { } template) return;
        (string Name, string Text)[] named = template.Kind switch
        {
            JsonValueKind.String => [("default", template.Text())],
            JsonValueKind.Object => [.. template.Members().Select(static m => (m.Item1, m.Item2.Text()))],
            _ => [.. template.Items().Select(static t => (t.Required("name").Text(), t.Required("template").Text()))],
        };
        ToolUseTemplate = named.FirstOrDefault(static t => t.Name == "tool_use").Text;
        ChatTemplate = named.FirstOrDefault(static t => t.Name == "default").Text
            ?? named.FirstOrDefault(static t => t.Name != "tool_use").Text ?? ToolUseTemplate;
    }

    private void ReadAddedTokens(JsonField root)
    {
        foreach ((string text, JsonField id) in root.Members())
            if (!AddedTokens.Exists(t => t.Text == text))
                AddedTokens.Add(new AddedToken(id.Int32(), text, Special: text.StartsWith('<') && text.EndsWith('>'),
                    TokenEdges.None));
        AddedTokens.Sort(static (a, b) => a.Id.CompareTo(b.Id));
    }

    private void ReadModelConfig(JsonField root)
    {
        JsonField model = root.Optional("text_config") ?? root;
        BosId = model.Optional("bos_token_id") is { Kind: JsonValueKind.Number } bos ? bos.Int32() : null;
        VocabularySize = model.Optional("vocab_size")?.Int32() ?? 0;
        ReadEnds(root);
        if (root.Optional("text_config") is not null) ReadEnds(model);
    }

    private void ReadEnds(JsonField root)
    {
        if (root.Optional("eos_token_id") is not { } eos) return;
        if (eos.Kind == JsonValueKind.Array) EndIds.AddRange(eos.Items().Select(static e => e.Int32()));
        else EndIds.Add(eos.Int32());
    }

    private static string? TokenText(JsonField? field)
        => field is not { } token ? null : token.Kind == JsonValueKind.Object
            ? token.Required("content").Text() : token.Text();
}
