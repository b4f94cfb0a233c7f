using System.Text;
using System.Text.RegularExpressions;

namespace Native.Tools.DemoModel;

/// <summary>
/// Expands templates: <c>{a|b}</c> chooses, <c>[name]</c> looks a variable up, <c>a@</c> becomes a or an. Sentences
/// are capitalised afterwards.
/// </summary>
internal sealed partial class Grammar(Random random)
{
    public Dictionary<string, string> Variables { get; } = [];

    public string Expand(string template)
    {
        var text = new StringBuilder();
        int position = 0;
        Sequence(template, ref position, text, write: true);
        return Polish(text.ToString());
    }

    /// <summary>Up to the closing brace or bar of the choice that it stands in, or the end.</summary>
    private void Sequence(string template, ref int position, StringBuilder text, bool write)
    {
        while (position < template.Length && template[position] is not ('|' or '}'))
        {
            char c = template[position++];
            if (c == '{')
            {
                int chosen = write ? random.Next(Count(template, position)) : -1;
                for (int i = 0; ; i++)
                {
                    Sequence(template, ref position, text, write && i == chosen);
                    if (template[position++] == '}') break;
                }
            }
            else if (c == '[')
            {
                int end = template.IndexOf(']', position);
                if (write) text.Append(Variables[template[position..end]]);
                position = end + 1;
            }
            else if (write) text.Append(c);
        }
    }

    private static int Count(string template, int position)
    {
        int count = 1;
        for (int depth = 0; depth > 0 || template[position] != '}'; position++)
            if (template[position] == '{') depth++;
            else if (template[position] == '}') depth--;
            else if (template[position] == '|' && depth == 0) count++;
        return count;
    }

    public static string Polish(string text)
    {
        text = Spaces().Replace(text, " ").Trim();
        text = text.Replace(" ,", ",").Replace(" .", ".").Replace(" !", "!").Replace(" ?", "?");
        text = Article().Replace(text, m => (m.Groups[1].Value, "aeiou".Contains(char.ToLowerInvariant(m.Groups[2].Value[0]))
            && !m.Groups[2].Value.StartsWith("uni", StringComparison.OrdinalIgnoreCase)) switch
        {
            ("a", true) => "an ",
            ("a", false) => "a ",
            (_, true) => "An ",
            _ => "A ",
        } + m.Groups[2].Value);
        return SentenceStart().Replace(text, m => m.Value.ToUpperInvariant());
    }

    [GeneratedRegex(" {2,}")]
    private static partial Regex Spaces();

    [GeneratedRegex(@"\b([aA])@ (\w+)")]
    private static partial Regex Article();

    // Not after a question or exclamation that a speech tag follows.
    [GeneratedRegex(@"^[a-z]|(?<=[.!?] |\n|\."" )[a-z]|(?<=[!?]"" )(?!(said|asked|cried|called|laughed|whispered|answered|thought)\b)[a-z]|(?<=(^| )"")[a-z]")]
    private static partial Regex SentenceStart();
}
