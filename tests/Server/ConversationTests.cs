using System.Text.Json;
using Native.Server.Jinja;
using Native.Server.Serving;

namespace Native.Tests.Server;

/// <summary>Conversations as the API's own clients send them, in every template.</summary>
public sealed class ConversationTests
{
    private static string Render(string template, string messages) =>
        ChatTemplate.Parse(template).Render(JsonElement.Parse(messages), null, false, "<s>", "</s>", ct: TestContext.Current.CancellationToken);

    [Theory]
    [InlineData("""[{"role":"developer","content":"probe-a"},{"role":"user","content":"Hi"}]""")]
    [InlineData("""[{"role":"system","content":"probe-a"},{"role":"user","content":"Hi"}]""")]
    [InlineData("""[{"role":"system","content":"probe-a"},{"role":"developer","content":"probe-b"},{"role":"user","content":"Hi"}]""")]
    [InlineData("""[{"role":"developer","content":"probe-a"},{"role":"system","content":"probe-b"},{"role":"user","content":"Hi"}]""")]
    [InlineData("""[{"role":"user","content":"Hi"},{"role":"assistant","content":"Yes"},{"role":"developer","content":"probe-b"},{"role":"user","content":"Hi"}]""")]
    [InlineData("""[{"role":"system","content":"probe-a"},{"role":"user","content":"Hi"},{"role":"assistant","content":"Yes"},{"role":"system","content":"probe-b"},{"role":"user","content":"Hi"}]""")]
    public void AnInstruction_ReachesTheModel_OrIsRefused_InEveryRealTemplate(string messages)
    {
        List<string> lost = [];
        int told = 0;
        foreach (string file in Directory.GetFiles(TestData.Path("chat-templates"), "*.jinja"))
        {
            try
            {
                string text = Render(File.ReadAllText(file), messages);
                if (((string[])["probe-a", "probe-b"]).All(probe => !messages.Contains(probe) || text.Contains(probe))) told++;
                else lost.Add(Path.GetFileNameWithoutExtension(file));
            }
            catch (TemplateException) // told with a status
            {
            }
        }
        Assert.True(lost.Count == 0, $"told {told}, lost in {string.Join(", ", lost)}");
        Assert.True(told >= 40, $"told in {told}");
    }

    private const string SystemAndUser =
        "{% for m in messages %}{% if m.role == 'system' or m.role == 'user' %}[{{ m.role }}]{{ m.content }}{% endif %}{% endfor %}";

    [Theory]
    [InlineData(SystemAndUser, "[system]Answer in French.[user]Hi")]
    [InlineData("{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}", "[system]Answer in French.[user]Hi")] // prints whatever role it is given
    [InlineData("{% for m in messages %}[{{ 'D' if m.role == 'developer' else m.role }}]{{ m.content }}{% endfor %}", "[D]Answer in French.[user]Hi")]
    [InlineData("{% for m in messages %}{% if m.role == 'user' %}[{{ m.role }}]{{ m.content }}{% endif %}{% endfor %}", "[user]Answer in French.\n\nHi")]
    [InlineData("{% for m in messages %}{% if m.role == 'user' %}{% for p in m.content %}[{{ p.type }}]{{ p.text }}{% endfor %}{% endif %}{% endfor %}", "[text]Answer in French.[text]\n\n[text]Hi")]
    public void ADevelopersMessage_IsTheSystems_UnlessTheTemplateNamesThatRole(string template, string expected) =>
        Assert.Equal(expected, Render(template, """[{"role":"developer","content":"Answer in French."},{"role":"user","content":"Hi"}]"""));

    [Fact]
    public void ARoleThatTheTemplateLeavesOut_IsRefused() =>
        Assert.Contains("'judge'", Assert.Throws<TemplateException>(() => Render(SystemAndUser, """[{"role":"judge","content":"a"},{"role":"user","content":"b"}]""")).Message);

    private const string Calls = "{% for m in messages %}{% if 'tool_calls' in m %}{{ m.tool_calls | length }} calls{% else %}[{{ m.role }}]{{ m.content }}{% endif %}{% endfor %}";

    private const string EveryMember = "{% for m in messages %}[{% for k, v in m | items %}{{ k }}={{ v }};{% endfor %}]{% endfor %}";

    [Theory]
    [InlineData(Calls, "\"tool_calls\":null", "[user]Hi[assistant]Yes[user]Hi")]
    [InlineData(Calls, "\"tool_calls\":[]", "[user]Hi[assistant]Yes[user]Hi")]
    [InlineData(EveryMember, "\"name\":null,\"refusal\":null,\"audio\":null,\"function_call\":null,\"tool_calls\":null,\"reasoning_content\":null", "[role=user;content=Hi;][role=assistant;content=Yes;][role=user;content=Hi;]")]
    public void Null_MeansThatAMemberIsNotGiven(string template, string members, string expected) =>
        Assert.Equal(expected, Render(template, $$"""[{"role":"user","content":"Hi"},{"role":"assistant","content":"Yes",{{members}}},{"role":"user","content":"Hi"}]"""));

    [Theory]
    [InlineData("\"content\":null")]
    [InlineData("\"content\":null,\"refusal\":null")]
    [InlineData("\"content\":null,\"refusal\":\"No.\"")]
    [InlineData("\"content\":null,\"function_call\":{\"name\":\"f\",\"arguments\":\"{}\"}")]
    [InlineData("\"content\":null,\"tool_calls\":[]")]
    [InlineData("\"tool_calls\":null")]
    [InlineData("\"content\":[]")]
    public void AnAssistantWithoutContent_SaidNothing(string members) =>
        Assert.Equal("<user>Hi<assistant>", Render("{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] }}{% endfor %}", $$"""[{"role":"user","content":"Hi"},{"role":"assistant",{{members}}}]"""));

    private const string Items =
        "{% for m in messages %}{% if m.tool_calls %}{% for c in m.tool_calls %}{{ c.function.name }}({% for k, v in c.function.arguments | items %}{{ k }}={{ v }};{% endfor %}){% endfor %}{% else %}[{{ m.role }}]{{ m.content }}{% endif %}{% endfor %}";

    [Theory]
    [InlineData("{}")]
    [InlineData("\"{}\"")]
    [InlineData("\"\"")]
    [InlineData("\" \\n\"")]
    [InlineData("null")]
    [InlineData("\"null\"")]
    [InlineData("5")]
    [InlineData("\"5\"")]
    [InlineData("[]")]
    [InlineData("\"[1]\"")]
    [InlineData("\"{broken\"")]
    [InlineData("\"{\\\"a\\\": NaN}\"")]
    public void ArgumentsThatAreNoObject_AreNone(string arguments)
    {
        string messages = $$$"""[{"role":"user","content":"Hi"},{"role":"assistant","content":null,"tool_calls":[{"id":"1","type":"function","function":{"name":"now","arguments":{{{arguments}}}}}]}]""";
        Assert.Equal("[user]Hinow()", Render(Items, messages));
        Assert.Equal("[user]Hinow()", Render(Items, messages.Replace($",\"arguments\":{arguments}", "")));
    }

    [Theory]
    [InlineData("\"\"", "f({})")]
    [InlineData("null", "f({})")]
    [InlineData("{\"a\":1}", "f({\"a\": 1})")]
    [InlineData("\"{\\\"a\\\":1}\"", "f({\"a\":1})")]
    public void Arguments_AreText_WhereTheTemplateReadsText(string arguments, string expected) => Assert.Equal(expected, Render(
        "{% for m in messages %}{% for c in m.tool_calls or [] %}{{ 'f(' + c.function.arguments + ')' }}{% endfor %}{% endfor %}",
        $$$"""[{"role":"user","content":"Hi"},{"role":"assistant","tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":{{{arguments}}}}}]}]"""));

    [Theory]
    [InlineData("""[{"type":"refusal","refusal":"No."}]""", "No.")]
    [InlineData("""[{"type":"input_text","text":"a"},{"type":"output_text","text":"b"}]""", "a\nb")]
    [InlineData("""[{"type":"thinking","thinking":"hm"},{"type":"text","text":"a"}]""", "a{hm}")]
    public void PartsOfText_AreText(string parts, string expected) => Assert.Equal(
        "x" + expected,
        Render("{% for m in messages %}{{ m.content }}{% if m.reasoning_content %}{{ '{' + m.reasoning_content + '}' }}{% endif %}{% endfor %}", $$"""[{"role":"user","content":"x"},{"role":"assistant","content":{{parts}}}]"""));

    [Fact]
    public void ThinkingParts_StayParts_WhereTheTemplateReadsThem() => Assert.Equal("x(hm)a", Render(
        "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}{{ '(' + p.thinking + ')' if p.type == 'thinking' else p.text }}{% endfor %}{% endif %}{% endfor %}",
        """[{"role":"user","content":"x"},{"role":"assistant","content":[{"type":"thinking","thinking":"hm"},{"type":"text","text":"a"}]}]"""));
}
