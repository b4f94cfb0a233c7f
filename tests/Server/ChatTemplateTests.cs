using System.Text.Json;
using Native.Server.Jinja;
using Native.Server.Serving;

namespace Native.Tests.Server;

public sealed class ChatTemplateTests
{
    private static readonly DateTimeOffset Now = new(2025, 7, 4, 9, 5, 3, TimeSpan.Zero);

    private static string Render(string template, string messages, string? tools = null, bool addGenerationPrompt = false, string? extra = null) =>
        ChatTemplate.Parse(template).Render(
            JsonElement.Parse(messages), tools is null ? null : JsonElement.Parse(tools), addGenerationPrompt, "<s>", "</s>",
            extra is null ? null : JsonElement.Parse(extra), now: Now, ct: TestContext.Current.CancellationToken);

    [Fact]
    public void Render_MatchesTheReferenceCases()
    {
        using var document = JsonDocument.Parse(File.ReadAllText(TestData.Path("chat-templates/template-tests.json")));
        JsonElement root = document.RootElement;
        JsonElement[] conversation = [.. root.GetProperty("conversation").EnumerateArray()];
        int compared = 0;
        foreach (JsonElement test in root.GetProperty("cases").EnumerateArray())
        {
            string name = test.GetProperty("name").GetString()!;
            JsonElement[] messages = test.TryGetProperty("extra_conversation", out JsonElement more) ? [.. conversation, .. more.EnumerateArray()] : conversation;
            ChatTemplate template = ChatTemplate.Parse(test.GetProperty("template_str").GetString()!);
            string Token(string property) => test.TryGetProperty(property, out JsonElement token) ? token.GetString()! : "";
            string Run() => template.Render(
                JsonSerializer.SerializeToElement(messages), null, root.GetProperty("add_generation_prompt").GetBoolean(),
                Token("bos_token"), Token("eos_token"), ct: TestContext.Current.CancellationToken);

            string plain = test.GetProperty("plain_jinja").GetString()!;
            if (plain.StartsWith("raises: "))
            {
                TemplateException refusal = Assert.Throws<TemplateException>(Run);
                Assert.True(refusal.IsRefusal, name);
                Assert.Equal(plain["raises: ".Length..], refusal.Message);
            }
            else if (plain == "match")
            {
                string expected = test.GetProperty("expected_output_jinja").GetString()!;
                if (expected.Length == 0) expected = test.GetProperty("expected_output").GetString()!;
                Assert.Equal(expected, Run());
            }
            else
            {
                Run(); // the expectation has llama.cpp's own additions in it
                continue;
            }
            compared++;
        }
        Assert.True(compared >= 20, $"only {compared} cases were compared");
    }

    [Fact]
    public void Parse_TakesEveryRealTemplate()
    {
        string[] files = Directory.GetFiles(TestData.Path("chat-templates"), "*.jinja");
        Assert.True(files.Length >= 60, $"found {files.Length} templates");
        foreach (string file in files) ChatTemplate.Parse(File.ReadAllText(file));
    }

    [Fact]
    public void Render_GivesEveryVariableOfTheRequest() => Assert.Equal(
        "<s>|user:Hi|get_weather|True|high|</s>",
        Render(
            "{{ bos_token }}|{{ messages[0].role }}:{{ messages[0].content }}|{{ tools[0].function.name }}|{{ add_generation_prompt }}|{{ effort }}|{{ eos_token }}",
            """[{"role":"user","content":"Hi"}]""", """[{"type":"function","function":{"name":"get_weather"}}]""", true, """{"effort":"high"}"""));

    [Fact]
    public void Render_GivesNoneForAbsentTools() => Assert.Equal("True True", Render("{{ tools is defined }} {{ tools is none }}", "[]"));

    [Fact]
    public void Render_KeepsItsOwnVariables_WhateverTheRequestAdds() =>
        Assert.Equal("1", Render("{{ messages|length }}", """[{"role":"user","content":"x"}]""", extra: """{"messages":[]}"""));

    [Fact]
    public void Render_TellsTheGivenTime() => Assert.Equal(
        "04 Jul 2025|4 Jul 2025|2025-07-04|09:05:03 AM|Friday, July 04|185 %",
        Render("{{ strftime_now('%d %b %Y') }}|{{ strftime_now('%-d %b %Y') }}|{{ strftime_now('%Y-%m-%d') }}|{{ strftime_now('%I:%M:%S %p') }}|{{ strftime_now('%A, %B %d') }}|{{ strftime_now('%j %%') }}", "[]"));

    [Fact]
    public void RaiseException_GivesTheTemplatesOwnWords()
    {
        TemplateException e = Assert.Throws<TemplateException>(() => Render("{{ raise_exception('roles must ' ~ 'alternate') }}", "[]"));
        Assert.Equal("roles must alternate", e.Message);
        Assert.True(e.IsRefusal);
    }

    [Fact]
    public void Render_NamesTheLine_WhenATemplateFails()
    {
        TemplateException e = Assert.Throws<TemplateException>(() => Render("a\n{% if true %}\n{{ messages[0].content.x.y }}{% endif %}", """[{"role":"user","content":"x"}]"""));
        Assert.Equal("chat template, line 3: 'str object' has no attribute 'x'", e.Message);
        Assert.Equal(3, e.Line);
        Assert.False(e.IsRefusal);
    }

    [Theory]
    [InlineData("{}", "messages must be an array")]
    [InlineData("[1]", "each message must be an object")]
    [InlineData("""[{"role":"user","content":"\ud800"}]""", "surrogate")]
    public void Render_RefusesWhatIsNoConversation(string messages, string expected) =>
        Assert.Contains(expected, Assert.Throws<TemplateException>(() => Render("{{ messages }}", messages)).Message);

    [Fact]
    public void Render_StopsWhenCancelled()
    {
        ChatTemplate template = ChatTemplate.Parse("{% for a in range(1000) %}{% for b in range(1000) %}{{ a * b }}{% endfor %}{% endfor %}");
        Assert.Throws<OperationCanceledException>(() => template.Render(JsonElement.Parse("[]"), null, false, "", "", ct: new CancellationToken(true)));
    }

    // ---- messages in the form the template reads ----

    private const string StringsOnly = "{% for m in messages %}<{{ m.role }}>{{ m.content + '' }}{% endfor %}";

    private const string StringsAndParts =
        "{% for m in messages %}<{{ m.role }}>{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endif %}{% endfor %}";

    private const string PartsOnly = "{% for m in messages %}<{{ m.role }}>{% for p in m.content %}{% if p.type == 'text' %}{{ p.text }}{% endif %}{% endfor %}{% endfor %}";

    // It handles parts for users, and prints the list as Python would for the system.
    private const string PartsForUsers =
        "{% for m in messages %}<{{ m.role }}>{% if m.role == 'user' and m.content is not string %}{% for p in m.content %}{{ p.text }}{% endfor %}{% else %}{{ m.content }}{% endif %}{% endfor %}";

    private const string TwoParts = """[{"type":"text","text":"a"},{"type":"text","text":"b"}]""";

    [Theory]
    [InlineData(StringsOnly, "<system>a\nb<user>a\nb")]
    [InlineData(StringsAndParts, "<system>ab<user>ab")]
    [InlineData(PartsOnly, "<system>ab<user>ab")]
    [InlineData(PartsForUsers, "<system>a\nb<user>ab")]
    public void Render_JoinsTextParts_WhereTheTemplateReadsNone(string template, string expected) =>
        Assert.Equal(expected, Render(template, $$"""[{"role":"system","content":{{TwoParts}}},{"role":"user","content":{{TwoParts}}}]"""));

    [Theory]
    [InlineData(StringsOnly)]
    [InlineData(StringsAndParts)]
    [InlineData(PartsOnly)]
    [InlineData(PartsForUsers)]
    public void Render_TakesStrings_InEveryTemplate(string template) =>
        Assert.Equal("<user>ab", Render(template, """[{"role":"user","content":"ab"}]"""));

    [Fact]
    public void Render_GivesAPart_WhereTheTemplateReadsTheFirstAlone() => Assert.Equal(
        "<user>ab<user>a",
        Render("{% for m in messages %}<{{ m.role }}>{{ m.content[0].text }}{% endfor %}", $$"""[{"role":"user","content":"ab"},{"role":"user","content":{{TwoParts}}}]"""));

    [Fact]
    public void Render_LeavesPartsToTheTemplate_WhenOneIsNoText() => Assert.Equal(
        "<user>[image]a",
        Render(
            "{% for m in messages %}<{{ m.role }}>{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}{{ p.text if p.type == 'text' else '[image]' }}{% endfor %}{% endif %}{% endfor %}",
            """[{"role":"user","content":[{"type":"image_url","image_url":{"url":"x"}},{"type":"text","text":"a"}]}]"""));

    private const string ToolCall =
        """[{"role":"user","content":"x"},{"role":"assistant","content":null,"tool_calls":[{"id":"a","type":"function","function":{"name":"f","arguments":"{\"n\":1,\"s\":\"é\"}"}}]}]""";

    private const string Calls = "{% for m in messages %}{% for c in m.tool_calls or [] %}";

    [Theory]
    [InlineData("{{ c.function.arguments | tojson }}", """{"n": 1, "s": "é"}""")]
    [InlineData("{% for k, v in c.function.arguments.items() %}{{ k }}={{ v }};{% endfor %}", "n=1;s=é;")]
    [InlineData("{{ c.function.arguments if c.function.arguments is string else c.function.arguments | tojson }}", """{"n": 1, "s": "é"}""")]
    [InlineData("{{ '```' + c.function.arguments + '```' }}", "```{\"n\":1,\"s\":\"é\"}```")]
    [InlineData("{{ c.function.arguments }}", """{"n":1,"s":"é"}""")]
    public void Render_GivesToolArguments_AsTheTemplateReadsThem(string print, string expected) =>
        Assert.Equal(expected, Render(Calls + print + "{% endfor %}{% endfor %}", ToolCall));

    [Fact]
    public void Render_KeepsToolArguments_ThatAreNoJson() => Assert.Equal(
        "\"{broken\"",
        Render(Calls + "{{ c.function.arguments | tojson }}{% endfor %}{% endfor %}", ToolCall.Replace("""{\"n\":1,\"s\":\"é\"}""", "{broken")));

    [Theory]
    [InlineData("{% for m in messages %}[{{ m.content }}]{% endfor %}", "[x][]")] // would print None
    [InlineData("{% for m in messages %}[{{ m.content + '' }}]{% endfor %}", "[x][]")] // would fail
    [InlineData("{% for m in messages %}[{% if m.content is none %}-{% else %}{{ m.content }}{% endif %}]{% endfor %}", "[x][-]")]
    public void Render_ReplacesAnAbsentContent_WhereTheTemplateCantTakeIt(string template, string expected) =>
        Assert.Equal(expected, Render(template, ToolCall));
}
