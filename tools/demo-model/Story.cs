namespace Native.Tools.DemoModel;

/// <summary>A question about a story with its answer, as templates over the story's variables.</summary>
internal readonly record struct Fact(string Question, string Answer);

/// <summary>One story: who and what it is about (the variables), its sentences, and what can be asked about
/// it.</summary>
internal sealed partial class Story
{
    private static readonly (string[] Things, Action<Story> Plot)[] s_helpful =
    [
        (Words.Light, s => s.Light()), (Words.Sound, s => s.Sound()), (Words.Warm, s => s.Warm()), (Words.Dry, s => s.Dry()),
        (Words.Pull, s => s.Pull()), (Words.Carry, s => s.Carry()), (Words.Play, s => s.Cheer()), (Words.Read, s => s.Read()),
    ];
    private static readonly Action<Story>[] s_general =
    [
        s => s.Lost(), s => s.Found(), s => s.Quarrel(), s => s.Present(), s => s.Broken(), s => s.Stuck(), s => s.NewFriend(),
        s => s.Lend(), s => s.Race(), s => s.Search(),
    ];
    private static readonly Action<Story>[] s_food = [s => s.ShareFood(), s => s.Bake()];

    private readonly Random _random;
    private readonly bool _short;
    private readonly List<string> _sentences = [];

    public Grammar Grammar { get; }
    public List<Fact> Facts { get; } = [];
    public string HeroKind { get; }
    public string FriendKind { get; }
    public string Thing { get; }
    public string Summary { get; private set; } = "";
    public string Lesson { get; private set; } = "";
    public bool HasColour { get; private set; }
    public IReadOnlyList<string> Sentences => _sentences;
    public string Text => string.Join(' ', _sentences);
    public string this[string variable] => Grammar.Variables[variable];

    /// <param name="random">Decides everything.</param>
    /// <param name="brief">Leaves out what the story can do without.</param>
    public Story(Random random, bool brief)
    {
        _random = random;
        _short = brief;
        Grammar = new Grammar(random);
        HeroKind = Character("h", Kind());
        string friend;
        do friend = Kind(); while (friend == HeroKind);
        FriendKind = Character("f", friend);

        bool food = Chance(0.12);
        Thing = Pick(food ? Words.Foods : Chance(0.15) ? Words.Rare : Words.Things);
        Set("i", Thing);
        HasColour = !food && Chance(0.85);
        Set("c", HasColour ? Pick(Words.Colours) : "");
        Set("look", HasColour ? "" : food ? Pick(["big", "sweet", "fresh", "round"]) : Pick(Words.Looks));
        Set("ci", $"{this["look"]} {this["c"]} {Thing}");
        Set("Ci", string.Join(' ', this["ci"].Split(' ', StringSplitOptions.RemoveEmptyEntries).Select(w => char.ToUpperInvariant(w[0]) + w[1..])));
        Set("place", Pick(Words.Places));
        Set("home", Pick(Words.Homes));
        Set("time", Pick(Words.Times));
        Set("day", Pick(Words.Days));
        Set("weather", Pick(Words.Weathers));

        Opening();
        if (food) Pick(s_food)(this);
        else
        {
            Action<Story>[] helpful = [.. s_helpful.Where(p => p.Things.Contains(Thing)).Select(p => p.Plot)];
            if (helpful.Length > 0 && Chance(0.5)) Pick(helpful)(this);
            else Pick(s_general)(this);
        }
        CommonFacts();
    }

    // ---- the telling ----

    private bool Chance(double p) => _random.NextDouble() < p;
    private T Pick<T>(IReadOnlyList<T> items) => items[_random.Next(items.Count)];
    private void Set(string name, string value) => Grammar.Variables[name] = value;
    private string Choose(string name, string template) { string value = Grammar.Expand("x" + template)[1..]; Set(name, value); return value; }
    private void Say(string template) => _sentences.Add(Grammar.Expand(template));
    /// <summary>A sentence that the story does without when it is to be short.</summary>
    private void Maybe(string template) { if (!_short && Chance(0.75)) Say(template); }
    private void Ask(string question, string answer) => Facts.Add(new(question, answer));

    private string Kind() => Chance(0.3) ? Pick(["girl", "boy"]) : Chance(0.12) ? Pick(Words.RareHeroes) : Pick(Words.Animals);

    private string Character(string prefix, string kind)
    {
        bool she = kind switch
        {
            "girl" or "queen" or "princess" or "witch" or "mermaid" or "fairy" or "hen" or "cow" => true,
            "boy" or "king" or "prince" or "knight" or "wizard" or "rooster" or "fisherman" => false,
            _ => Chance(0.5),
        };
        string name;
        do name = Chance(0.12) ? InventName(_random) : Pick(she ? Words.Girls : Words.Boys);
        while (prefix == "f" && name == Grammar.Variables.GetValueOrDefault("h"));
        Set(prefix, name);
        Set(prefix + ".kind", kind);
        Set(prefix + ".trait", Pick(Words.Traits));
        Set(prefix + ".he", she ? "she" : "he");
        Set(prefix + ".his", she ? "her" : "his");
        Set(prefix + ".him", she ? "her" : "him");
        Set(prefix + ".self", she ? "herself" : "himself");
        return kind;
    }

    public static string InventName(Random random)
    {
        string name = string.Concat(Enumerable.Range(0, random.Next(2, 4)).Select(_ => Words.Syllables[random.Next(Words.Syllables.Length)]));
        return char.ToUpperInvariant(name[0]) + name[1..];
    }

    private void Opening()
    {
        string trait = "[h.trait]";
        if (_short)
        {
            Say("{Once upon a time, there was|There once was|One [time], there was} a@ {little |}" + trait + " [h.kind] named [h].");
            return;
        }
        Say("{Once upon a time, there was|Once there was|Long ago, there was|There once was|Once upon a time, there lived} a@ {" + trait + "|" + trait + " little|little} [h.kind] {named|called} [h].");
        if (!_sentences[0].Contains(this["h.trait"], StringComparison.Ordinal)) Say("[h] was very [h.trait].");
        Ask("{What was [h] like?|How does the story describe [h]?|What kind of [h.kind] was [h]?}", "[h] was {very |}[h.trait].");
        if (Chance(0.6))
        {
            Say(Chance(0.5) ? "[h] lived [home]." : "[h.he] lived [home].");
            Ask("{Where did [h] live?|Where was the home of [h]?|Where did the [h.kind] live?}", "[h] lived [home].");
        }
        if (Chance(0.35))
        {
            Choose("hobby", "{sing|dance|paint|swim|run|read|climb|whistle|pick flowers|watch the clouds|listen to stories|count the stars|splash in puddles|look for shells}");
            Say("{[h] loved to [hobby].|More than anything, [h] loved to [hobby].|Every day, [h.he] liked to [hobby].}");
            Ask("{What did [h] love to do?|What did [h] like to do?}", "[h] loved to [hobby].");
        }
    }

    private void Day()
    {
        string day = Chance(0.5) ? "[day] [time]" : "[time]";
        if (Chance(0.75))
        {
            Say("{One [weather] " + day + "|On a@ [weather] " + day + "}, [h] was [place].");
            Ask("{What was the weather like?|How was the weather in the story?}", "It was [weather].");
        }
        else Say("One " + day + ", [h] was [place].");
        if (_sentences[^1].Contains(this["day"], StringComparison.Ordinal)) Ask("{Which day was it?|What day was it?|On which day did it happen?}", "It was [day].");
        Ask("{When did it happen?|What time of day was it?|Was it morning or evening?}", "It was in the [time].");
        Ask("{Where was [h]?|Where was the [h.kind]?|Where did the story happen?|Where did it happen?}", "[h] was [place].");
    }

    private void MeetFriend(string verb = "{met|saw}") =>
        Say("{Soon|After a while,|Then|A little later,} [h.he] " + verb + " a@ [f.kind] {named|called} [f].");

    private void CommonFacts()
    {
        Ask("{Who is the story about?|Who is this story about?|Who was the story about?|Who is the main character?|Who is it about?}", "The story is about a@ [h.kind] named [h].");
        Ask("{What is the name of the [h.kind]?|What was the name of the [h.kind]?|What was the [h.kind] called?|How was the [h.kind] called?}", "The [h.kind] was {called|named} [h].");
        Ask("{What is the name of the [f.kind]?|What was the name of the [f.kind]?|What was the [f.kind] called?}", "The [f.kind] was {called|named} [f].");
        Ask("{Who was [f]?|What was [f]?|What kind of animal was [f]?|Who is [f]?}", "[f] was a@ [f.kind].");
        Ask("{Who was [h]?|What was [h]?|What kind of animal was [h]?|Who is [h]?}", "[h] was a@ [h.kind].");
        Ask("{Who did [h] meet?|Whom did [h] meet?|Who else is in the story?|Who was the friend of [h]?}", "[h] met a@ [f.kind] named [f].");
        if (HasColour)
            for (int i = 0; i < 2; i++)
            {
                Ask("{What colour was the [i]?|What color was the [i]?|Which colour did the [i] have?|What was the colour of the [i]?|What colour is the [i]?}", "The [i] was [c].");
                string other;
                do other = Pick(Words.Colours); while (other == this["c"]);
                Ask($"{{Was|Is}} the [i] {other}?", "No, the [i] was [c].");
            }
        if (HasColour) Ask("{Was|Is} the [i] [c]?", "Yes, the [i] was [c].");
        Ask("{What is the lesson of the story?|What can we learn from this story?|What is the moral of the story?|What do we learn?}", "The story tells us that " + Lesson + ".");
        Ask("{What is the story about?|What is this story about?|Tell me in one sentence what happened.|Can you sum up the story?|What happened in the story?|Tell me the story in one sentence.}", Summary);
        Ask("{Give the story a title.|What would be a good title?|What is a good title for this story?|Can you give it a title?}",
            "{A good title is|I would call it|It could be called} \"[h] and the [Ci]\".");
        string stranger;
        do stranger = Pick(Words.Animals); while (Text.Contains(stranger, StringComparison.Ordinal));
        Ask($"{{What was the name of the {stranger}?|What colour was the {stranger}?|Where was the {stranger}?|What did the {stranger} say?}}",
            $"{{There is no {stranger} in this story.|I do not see a@ {stranger} in this story.}}");
        Ask($"{{Is there a@ {stranger} in the story?|Was there a@ {stranger}?}}", $"No, there is no {stranger} in this story.");
        Ask("Is there a@ {[f.kind]|[h.kind]} in the story?", "Yes, the story has a@ [h.kind] and a@ [f.kind].");
    }
}
