using System.Text.RegularExpressions;

namespace Native.Tools.DemoModel;

/// <summary>
/// The corpus, generated as it is read: plain stories and conversations of the small world. Seeded. Every pairing of
/// a hero's kind with a thing belongs either to training or to the held-out set, never to both.
/// </summary>
internal sealed class Corpus(int seed, bool heldOut)
{
    private readonly Random _random = new(seed);
    private Chat? _chat;

    private Chat Chat => _chat ??= new Chat(_random);
    private T Pick<T>(IReadOnlyList<T> items) => items[_random.Next(items.Count)];
    private bool Chance(double p) => _random.NextDouble() < p;
    private string X(string template) => new Grammar(_random).Expand(template);

    public Example Next()
    {
        double kind = _random.NextDouble();
        if (kind < 0.12) return new(NewStory().Text, []);
        var turns = new List<Turn>();
        if (Chance(0.15)) turns.Add(new("system", Pick(s_systems)));
        if (kind < 0.44) StoryOnRequest(turns);
        else if (kind < 0.72) StoryGiven(turns);
        else if (kind < 0.76) Continue(turns);
        else if (kind < 0.87) AddAll(turns, Chat.ToldFacts());
        else Talk(turns);
        return new(null, turns);
    }

    private static readonly string[] s_systems =
    [
        "You are a friendly storyteller.", "You are a helpful assistant.", "You tell short stories.", "You are Native, a small storyteller.",
        "You are a helpful assistant that tells little stories.", "Answer questions about the story.", "You are a kind teacher.", "Be brief.",
        "You are a storyteller for children.", "Tell little stories and answer questions about them.",
    ];

    // ---- stories ----

    private static bool IsHeldOut(string kind, string thing)
    {
        uint hash = 2166136261; // FNV-1a: the same on every run, unlike string.GetHashCode
        foreach (char c in kind + "/" + thing) hash = (hash ^ c) * 16777619;
        return (hash >> 8) % 12 == 0;
    }

    private Story NewStory(bool brief = false)
    {
        while (true)
        {
            var story = new Story(_random, brief);
            if (IsHeldOut(story.HeroKind, story.Thing) == heldOut) return story;
        }
    }

    /// <summary>A request that names some of what the story then has.</summary>
    private (string Request, Story Story) Request(bool again)
    {
        bool brief = Chance(0.2);
        Story story = NewStory(brief);
        Grammar g = story.Grammar;
        bool child = story.HeroKind is "girl" or "boy";
        string colour = story.HasColour && Chance(0.4) ? "[c] [i]" : "[i]";
        string hero = Chance(0.2) ? "[h.trait] [h.kind]" : Chance(0.15) ? "little [h.kind]" : "[h.kind]";
        string text = story.Text;
        string? detail = new[] { "{|that plays }[place]", "who {loves|loved|likes} to [hobby]", "on a@ [weather] day", "on a@ [day]", "who lives [home]" }
            .Where(d => (!d.Contains("[hobby]") || g.Variables.ContainsKey("hobby")) && text.Contains(g.Variables[Regex.Match(d, @"\[(\w+)\]").Groups[1].Value], StringComparison.Ordinal))
            .OrderBy(_ => _random.Next()).FirstOrDefault();
        string topic = _random.Next(detail is null ? 13 : 16) switch
        {
            0 or 1 or 2 => $"a@ {hero}",
            3 or 4 or 5 => $"a@ {hero} and a@ {colour}",
            6 => $"a@ {hero} and a@ [f.kind]",
            7 => $"a@ {hero} {{named|called}} [h]",
            8 => $"a@ {hero} {{named|called}} [h] and a@ {colour}",
            9 => $"a@ {hero}, a@ [f.kind] and a@ {colour}",
            10 => child ? $"a@ {hero} {{with|who has}} a@ {colour}" : $"a@ {hero} {{with|who finds|who has}} a@ {colour}",
            11 => $"a@ {colour}",
            >= 13 => $"a@ {hero} " + detail!.Replace("{|that plays }", ""),
            _ => "[h] the [h.kind]",
        };
        string size = brief ? "{short|very short|little short|brief|tiny}" : "{|little|nice|new|{bedtime|good}|small}";
        string ask = again
            ? "{Tell me another one|Another one|Now tell me a story|One more, please, a story|Tell me another story|Another story, please|And now a story|Now one}"
            : $"{{Tell me a@ {size} story|Can you tell me a@ {size} story|Please tell me a@ {size} story|I would like to hear a@ {size} story|Write a@ {size} story|Tell a@ {size} story|Could you tell me a@ {size} story|I want a@ {size} story|Write me a@ {size} story|Make up a@ {size} story|Do you know a@ {size} story|A@ {size} story}}";
        bool open = Chance(0.1);
        string request = g.Expand($"{ask}{(open ? "" : $" about {topic}")}{{.|!|, please.|, please|||}}");
        if (ask.StartsWith("{Tell me a@", StringComparison.Ordinal) && Regex.IsMatch(request, "^(Can|Could|Do) ")) request = request.TrimEnd('.', '!') + (Chance(0.8) ? "?" : "");
        return (request, story);
    }

    private void StoryOnRequest(List<Turn> turns)
    {
        if (Chance(0.15)) Add(turns, Chat.SmallTalk());
        int stories = Chance(0.2) ? 2 : 1;
        for (int s = 0; s < stories; s++)
        {
            var (request, story) = Request(again: s > 0);
            Add(turns, (request, story.Text));
            Questions(turns, story, _random.Next(0, 5), given: null);
        }
        if (Chance(0.15)) Add(turns, Chat.SmallTalk());
    }

    private void StoryGiven(List<Turn> turns)
    {
        Story story = NewStory(Chance(0.4));
        Questions(turns, story, _random.Next(2, 6), story.Text);
    }

    private void Questions(List<Turn> turns, Story story, int count, string? given)
    {
        List<Fact> facts = [.. story.Facts];
        for (int i = 0; i < count && facts.Count > 0; i++)
        {
            Fact fact = Pick(facts);
            facts.Remove(fact);
            string question = story.Grammar.Expand(fact.Question), answer = story.Grammar.Expand(fact.Answer);
            if (given is not null)
            {
                question = _random.Next(6) switch
                {
                    0 => $"{given}\n\n{question}",
                    1 => $"Read this story: {given}\n\n{question}",
                    2 => $"Here is a story. {given}\n\n{question}",
                    3 => $"{given}\nQuestion: {question}",
                    4 => $"Story: {given}\n\nQuestion: {question}",
                    _ => $"{given} {question}",
                };
                given = null;
                Add(turns, (question, answer), keep: true);
            }
            else Add(turns, (question, answer));
        }
    }

    private void Continue(List<Turn> turns)
    {
        Story story = NewStory();
        int cut = Math.Min(story.Sentences.Count - 2, _random.Next(1, 6));
        string start = string.Join(' ', story.Sentences.Take(cut)), rest = string.Join(' ', story.Sentences.Skip(cut));
        Add(turns, (X("{Continue this story:|Please continue:|How does this story go on?|Finish this story:|Continue the story:|What happens next?}") + " " + start, rest), keep: true);
        Questions(turns, story, _random.Next(0, 3), given: null);
    }

    // ---- talk ----

    private void Talk(List<Turn> turns)
    {
        int exchanges = _random.Next(1, 6);
        for (int i = 0; i < exchanges; i++)
            switch (_random.Next(10))
            {
                case 0 or 1 or 2: Add(turns, Chat.SmallTalk()); break;
                case 3 or 4 or 5: Add(turns, Chat.WorldFact()); break;
                case 6 or 7: Add(turns, Chat.Foreign()); break;
                case 8: AddAll(turns, Chat.ToldFacts()); break;
                default: AddAll(turns, Chat.AboutUser()); break;
            }
    }

    private void AddAll(List<Turn> turns, List<Turn> more)
    {
        for (int i = 0; i < more.Count; i += 2) Add(turns, (more[i].Text, more[i + 1].Text));
    }

    /// <summary>Users write as they like: without capitals, without the full stop, with a please.</summary>
    private void Add(List<Turn> turns, (string User, string Assistant) pair, bool keep = false)
    {
        string user = pair.User;
        if (!keep)
        {
            if (Chance(0.2)) user = user.ToLowerInvariant();
            else if (Chance(0.01)) user = user.ToUpperInvariant();
            if (Chance(0.15)) user = user.TrimEnd('.', '?', '!') is { Length: > 0 } bare ? bare : user;
        }
        turns.Add(new("user", user));
        turns.Add(new("assistant", pair.Assistant));
    }
}
